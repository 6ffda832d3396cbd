#!/usr/bin/env bash
# Install what pip cannot: system_packages.sh build|test. Uses apt-get as root or with passwordless sudo; otherwise
# prints the one line to type. Fails only when a needed package is missing.
set -euo pipefail

libraries="$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null || true)"
has_library() { [[ "$libraries" == *"$1"* ]]; }
has_mesa() { compgen -G '/usr/lib/*/libgallium*' >/dev/null || compgen -G '/usr/lib*/*/dri/swrast_dri.so' >/dev/null; }
has_nvidia() { has_library libEGL_nvidia.so; }
has_headers() { "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

needed=()   # the installation cannot go on without these
optional=() # something is skipped without these
case "${1:-build}" in
build)
  python="${2:-python3}"
  command -v cmake >/dev/null || needed+=(cmake)
  command -v g++ >/dev/null || needed+=(g++)
  version="$("$python" -c 'import sys; print("python3.%d" % sys.version_info[1])')"
  has_headers "$python" || needed+=("$version-dev")
  has_venv "$python" || needed+=("$version-venv")
  has_library libGL.so.1 || needed+=(libgl1)           # OpenCV
  has_library libglib-2.0.so.0 || needed+=(libglib2.0-0)
  has_library libEGL.so.1 || optional+=(libegl1)       # the renderer
  has_mesa || has_nvidia || optional+=(libegl-mesa0 libgl1-mesa-dri)
  ;;
test)
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
    optional+=(chromium)
  ;;
*)
  echo "usage: $0 build [PYTHON] | test" >&2
  exit 2
  ;;
esac

[ ${#needed[@]} -eq 0 ] && [ ${#optional[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "Missing system packages (names of Debian and Ubuntu): ${needed[*]:-} ${optional[*]:-}" >&2
  exit $((${#needed[@]} > 0))
fi
apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then
    apt=(sudo -n "${apt[@]}")
  else
    echo "Please type: sudo apt-get update && sudo apt-get install -y ${needed[*]:-} ${optional[*]:-}" >&2
    exit $((${#needed[@]} > 0))
  fi
fi

echo "Installing system packages: ${needed[*]:-} ${optional[*]:-}"
"${apt[@]}" update -qq || echo "apt-get update failed; trying with the lists that are there" >&2
if [ ${#needed[@]} -gt 0 ]; then
  "${apt[@]}" install -y -qq --no-install-recommends "${needed[@]}" >/dev/null
fi
for package in "${optional[@]:+${optional[@]}}"; do
  [ -n "$package" ] || continue
  "${apt[@]}" install -y -qq --no-install-recommends "$package" >/dev/null ||
    echo "$package could not be installed; what needs it is skipped with a message" >&2
done
