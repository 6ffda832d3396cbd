#!/usr/bin/env bash
# Print the Python to use: python3 when it is 3.10 to 3.12, else the newest of those that starts. Never that of a
# virtual environment, which may be the one about to be made anew.
set -euo pipefail

for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10 /usr/bin/python3}; do
  found="$("$candidate" -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, 12) and print(getattr(sys, "_base_executable", sys.executable))' 2>/dev/null)" || continue
  if [ -n "$found" ]; then
    echo "$found"
    exit 0
  fi
done
for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[012]*/bin/python3; do
  if [ -x "$candidate" ]; then
    echo "$candidate"
    exit 0
  fi
done
echo "No Python 3.10, 3.11 or 3.12 found. On Debian and Ubuntu: sudo apt-get install -y python3 python3-venv; or name one: make install PYTHON=/path/to/python3.12" >&2
exit 1
