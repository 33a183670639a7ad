#!/bin/sh
# For `make test-systemd`: a small Debian that boots, and what pip installs there without a network.
#   systemd.sh root FOLDER           makes FOLDER/root: Debian 12 with Python 3.11, mosquitto and pytest; 230 MB, 2 minutes
#   systemd.sh wheels FOLDER PYTHON  makes FOLDER/wheels: what this project needs, fetched by PYTHON's pip; 130 MB
set -eu
what=$1
folder=$2
here=$(dirname "$(realpath "$0")")
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi

make_root() {
    [ -e /etc/debian_version ] || {
        echo "make test-systemd needs Debian: it boots one" >&2
        exit 1
    }
    if ! command -v systemd-nspawn >/dev/null || ! command -v debootstrap >/dev/null; then
        $sudo apt-get update -qq
        $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends systemd-container debootstrap
    fi
    $sudo rm -rf "$folder/root" "$folder/release"
    mkdir -p "$folder"
    packages=systemd,systemd-sysv,systemd-timesyncd,dbus,kmod,procps,make,python3,python3-venv,python3-pytest
    packages=$packages,mosquitto,mosquitto-clients
    $sudo debootstrap --variant=minbase --include=$packages bookworm "$folder/root" >"$folder/debootstrap.log" || {
        tail -n 20 "$folder/debootstrap.log" >&2
        exit 1
    }
    # When it has booted it does the job that was put into /job, and goes off. A login would take the console from it.
    system=$folder/root/etc/systemd
    $sudo mkdir -p "$folder/root/job" "$folder/root/checkout" "$system/system.conf.d"
    $sudo cp "$here/../../tests/systemd/job.service" "$system/system/"
    $sudo ln -s ../job.service "$system/system/multi-user.target.wants/job.service"
    $sudo ln -s /dev/null "$system/system/getty.target"
    printf '[Manager]\nShowStatus=no\n' | $sudo tee "$system/system.conf.d/quiet.conf" >/dev/null
    echo "127.0.0.1 localhost" | $sudo tee "$folder/root/etc/hosts" >/dev/null
    $sudo rm -rf "$folder/root/var/cache/apt" "$folder/root/var/lib/apt/lists"
    echo bookworm >"$folder/release"
}

fetch_wheels() {
    rm -rf "$folder/wheels"
    mkdir -p "$folder/wheels"
    "$1" - "$here/../../pyproject.toml" >"$folder/requirements.txt" <<'END'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)
print(*project["project"]["dependencies"], *project["build-system"]["requires"], sep="\n")
END
    # For that Debian's Python, whichever runs here; its C library is 2.36.
    machine=$(uname -m)
    platforms=$(for minor in $(seq 17 36); do echo "--platform manylinux_2_${minor}_$machine"; done)
    # shellcheck disable=SC2086
    "$1" -m pip download --quiet --disable-pip-version-check --dest "$folder/wheels" --python-version 3.11 \
        --only-binary=:all: $platforms --platform "manylinux2014_$machine" --requirement "$folder/requirements.txt"
    touch "$folder/wheels/ready"
}

case $what in
root) make_root ;;
wheels) fetch_wheels "$3" ;;
*) exit 2 ;;
esac
