#!/bin/sh
# Installs the Debian packages that pip cannot bring, and only those that are missing.
# Usage: scripts/system-packages.sh [run|test]
#   run    Python's venv module; a Vulkan loader and, where no driver is found, Mesa's software one
#   test   also the Vulkan validation layer and a browser for the reports' tests
# Without root or sudo it names what is missing and how to install it; a missing venv is fatal, a
# missing Vulkan is not (the numpy reference runs instead).
set -eu
missing=""
fatal=""
need() { missing="$missing $1"; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "specdec needs Python 3.11 or newer; python3 is $(python3 --version 2>&1)" >&2
    exit 1
}
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    need python3-venv
    fatal=yes
fi
if ! python3 -c 'import ctypes; ctypes.CDLL("libvulkan.so.1")' 2>/dev/null; then
    need libvulkan1
fi
has_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    for dir in /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d; do
        ls "$dir"/*.json >/dev/null 2>&1 && return 0
    done
    return 1
}
has_driver || need mesa-vulkan-drivers
if [ "${1:-run}" = test ]; then
    layers=$(ls /usr/share/vulkan/explicit_layer.d/*validation*.json 2>/dev/null || true)
    [ -n "$layers" ] || need vulkan-validationlayers
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || need chromium
fi
[ -z "$missing" ] && exit 0

command="apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null; then
    echo "missing system packages (Debian names):$missing; install them with your package manager" >&2
elif [ "$(id -u)" = 0 ]; then
    echo "installing system packages:$missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command -qq >/dev/null && exit 0
elif sudo -n true 2>/dev/null; then
    echo "installing system packages with sudo:$missing"
    sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $command -qq >/dev/null && exit 0
else
    echo "missing system packages:$missing; install them with: sudo $command" >&2
fi
[ -z "$fatal" ]
