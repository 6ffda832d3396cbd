# shellcheck shell=bash
# Sourced: puts this checkout's .venv and its messages into the environment, beside a sourced ROS or without one.
_venv="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)/.venv"
export VIRTUAL_ENV="$_venv" PATH="$_venv/bin:$PATH"
if [ "$(cat "$_venv/a2p_mode" 2>/dev/null)" = pypi ]; then
  export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
  export AMENT_PREFIX_PATH="$_venv" CMAKE_PREFIX_PATH="$_venv"
  export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
else
  export AMENT_PREFIX_PATH="$_venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
  export LD_LIBRARY_PATH="$_venv/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
unset _venv
