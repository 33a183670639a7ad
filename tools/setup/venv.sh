#!/bin/sh
# Make a virtual environment: venv.sh PYTHON FOLDER. Debian's Python comes without venv; say or do what is missing.
set -eu
python=$1 folder=$2
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "edge-agent needs Python 3.11 or newer, $python is $version; try: make PYTHON=/path/to/python3" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$version-venv"
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends "$package"
    elif sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo apt-get install -qq -y --no-install-recommends "$package"
    else
        echo "Python's venv is missing; run: sudo apt-get install $package" >&2
        exit 1
    fi
fi
"$python" -m venv "$folder"
