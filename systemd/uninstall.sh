#!/bin/sh
# Take edge-agent out again, as root. Configuration and data stay; with --purge they go too, and the user.
#
#   DESTDIR=FOLDER  what was installed below FOLDER
set -eu

DESTDIR=${DESTDIR:-}
purge=no
case ${1:-} in
'') ;;
--purge) purge=yes ;;
*)
    echo "usage: uninstall.sh [--purge]" >&2
    exit 2
    ;;
esac

if [ -z "$DESTDIR" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "uninstall.sh: has to be run as root" >&2
        exit 1
    fi
    if [ -e /etc/systemd/system/edge-agent.service ]; then
        if [ -d /run/systemd/system ]; then
            systemctl stop edge-agent.service
        fi
        systemctl disable edge-agent.service
    fi
fi

rm -f "$DESTDIR/etc/systemd/system/edge-agent.service" \
    "$DESTDIR/etc/sysusers.d/edge-agent.conf" "$DESTDIR/etc/tmpfiles.d/edge-agent.conf"
if [ "$(readlink "$DESTDIR/usr/local/bin/edge-agent" || true)" = /opt/edge-agent/venv/bin/edge-agent ]; then
    rm -f "$DESTDIR/usr/local/bin/edge-agent"
fi
rm -rf "$DESTDIR/opt/edge-agent"

if [ $purge = yes ]; then
    rm -rf "$DESTDIR/etc/edge-agent" "$DESTDIR/var/lib/edge-agent"
fi
if [ -z "$DESTDIR" ]; then
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl reset-failed edge-agent.service 2>/dev/null || true
    fi
    if [ $purge = yes ] && id edge-agent >/dev/null 2>&1; then
        userdel edge-agent
    fi
fi
if [ $purge = no ]; then
    echo "edge-agent is removed; /etc/edge-agent and /var/lib/edge-agent stay (uninstall.sh --purge removes them)"
fi
