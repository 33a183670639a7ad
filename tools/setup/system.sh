#!/bin/sh
# The servers that the tests start, from Debian's packages: installed where that is allowed, else named.
set -eu
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
PATH=$PATH:/usr/sbin:/sbin
need mosquitto mosquitto
need mosquitto_sub mosquitto-clients
need ffmpeg ffmpeg
need openssl openssl
need cc "gcc libc6-dev"
need npm npm
need systemd-analyze systemd
need gpsd gpsd
need arecord alsa-utils
need espeak-ng espeak-ng
need pulseaudio pulseaudio
need paplay pulseaudio-utils
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
ls /usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so >/dev/null 2>&1 || missing="$missing libasound2-plugins"
[ -x /usr/bin/python3 ] && /usr/bin/python3 -c '
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GstRtspServer' 2>/dev/null ||
    missing="$missing python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else
    echo "for all tests, run: sudo apt-get install --no-install-recommends$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -qq -y --no-install-recommends $missing
