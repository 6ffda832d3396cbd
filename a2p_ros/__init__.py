"""Two reconstructed hands from one camera, as a ROS 2 package.

Every consumer of ``a2p_ros.msg`` executes this file, so it imports nothing heavy.
"""

__version__ = "0.1.0"
