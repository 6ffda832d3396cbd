#!/usr/bin/env bash
# Everything that runs the package, in .venv of this checkout: `make install` calls this.
#   TORCH   what pip is told for torch      (torch==2.13.0; e.g. TORCH="torch==2.13.0 --index-url ..." for the CPU build)
#   ONNX    cpu or gpu                      (cpu)
#   PYTHON  the Python to use               (3.10 to 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
venv="$root/.venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_ROOT_USER_ACTION=ignore
unset VIRTUAL_ENV PYTHONHOME

python="$(tools/find_python.sh)"
tools/system_packages.sh build "$python"

# A sourced ROS is used as it is; its Python packages are seen through --system-site-packages.
sourced_ros=""
if [ -n "${ROS_DISTRO:-}" ] && [ "${AMENT_PREFIX_PATH:-}" != "$venv" ] && (cd / && "$python" -c 'import rclpy') 2>/dev/null; then
  sourced_ros="$ROS_DISTRO"
fi

mode="${sourced_ros:-pypi}"
made=""
if [ -f "$venv/a2p_mode" ]; then made="$(cat "$venv/a2p_mode")"; fi
if [ -n "$made" ] && [ "$made" != "$mode" ]; then
  echo "error: .venv was made for ROS '$made', this shell is for ROS '$mode': make clean, then make install" >&2
  exit 1
fi
if [ ! -x "$venv/bin/python3" ] || ! "$venv/bin/python3" -c 'import pip' 2>/dev/null; then
  echo "Making .venv with $python (ROS: $mode)"
  "$python" -m venv ${sourced_ros:+--system-site-packages} "$venv"
fi
echo "$mode" >"$venv/a2p_mode"

pip=("$venv/bin/python3" -m pip install --quiet)
echo "Installing torch (${TORCH:=torch==2.13.0})"
# shellcheck disable=SC2086  # TORCH may carry options
"${pip[@]}" $TORCH "numpy<2" setuptools==79.0.1 wheel

echo "Installing the Python packages"
packages=(-e ".[${ONNX:-cpu},render,viewer,bags,peer,training,dev]")
if [ -z "$sourced_ros" ]; then packages+=(-r requirements/ros-jazzy.txt); fi
"${pip[@]}" --no-build-isolation -c requirements/constraints.txt "${packages[@]}"
"${pip[@]}" --no-deps -c requirements/constraints.txt mediapipe

echo "Building the messages"
# shellcheck source=tools/env.sh
. tools/env.sh
build() { # build FOLDER NAME
  local options=(
    -DCMAKE_INSTALL_PREFIX="$venv"
    -DCMAKE_BUILD_TYPE=Release
    -DCMAKE_PROJECT_INCLUDE="$root/cmake/existing_include_dirs.cmake"
    -DPython3_EXECUTABLE="$venv/bin/python3"
    -DBUILD_TESTING=OFF
    -DA2P_ROS_EDITABLE=ON
  )
  local log="$venv/build/$2.log"
  mkdir -p "$venv/build"
  if ! { cmake -S "$1" -B "$venv/build/$2" --no-warn-unused-cli "${options[@]}" &&
    cmake --build "$venv/build/$2" --parallel && cmake --install "$venv/build/$2"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "error: building $2 failed; the whole log is in $log" >&2
    exit 1
  fi
}
if [ -z "$sourced_ros" ]; then build ros_bare/tf2_msgs tf2_msgs; fi
build . a2p_ros
(cd / && "$venv/bin/python3" -c 'import a2p_ros.types; from a2p_ros.msg import TwoHandMANO')
echo "Installed in .venv; to use it by hand: . tools/env.sh"
