"""Two reconstructed hands from one camera, as a ROS 2 package.

Every consumer of ``a2p_ros.msg`` executes this file, so it imports nothing heavy.
"""

from pkgutil import extend_path

# The generated messages are installed, these sources may be a checkout: one package in two folders.
__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
