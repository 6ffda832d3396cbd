"""Installation by pip; the metadata is in pyproject.toml, ROS builds use CMakeLists.txt."""

from glob import glob

from setuptools import find_packages, setup

setup(
    # Named, so that an editable installation is one path entry, beside which the installed messages are found.
    package_dir={"": "."},
    packages=find_packages(include=["a2p_ros", "a2p_ros.*"]),
    package_data={"": ["assets/**", "weights/**", "py.typed"]},
    data_files=[(f"share/a2p_ros/{folder}", glob(f"{folder}/*")) for folder in ("config", "launch", "msg", "rviz")],
    zip_safe=False,
)
