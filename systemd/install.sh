#!/bin/sh
# Install edge-agent from this checkout, as root; again does no harm and brings what has changed.
#
#   DESTDIR=FOLDER  put everything below FOLDER and leave users and services alone (for images and tests)
#   PYTHON=PROGRAM  Python 3.11 or newer; default: python3
set -eu

DESTDIR=${DESTDIR:-}
PYTHON=${PYTHON:-python3}
checkout=$(cd "$(dirname "$0")/.." && pwd)
venv=$DESTDIR/opt/edge-agent/venv
config=$DESTDIR/etc/edge-agent/config.yaml
state=$DESTDIR/var/lib/edge-agent

main() {
    if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
        fail "has to be run as root: sudo make install"
    fi
    install_program
    install_units
    install_config
    install_models
    if [ -z "$DESTDIR" ]; then
        enable_service
    fi
    echo "edge-agent is installed. Now: edit /etc/edge-agent/config.yaml, try it with"
    echo "    sudo -u edge-agent edge-agent check --config /etc/edge-agent/config.yaml"
    echo "and start it with: systemctl start edge-agent"
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

install_program() {
    if [ -x "$venv/bin/python" ] && [ "$(version "$venv/bin/python")" != "$(version "$PYTHON")" ]; then
        rm -rf "$venv" # packages of one Python can't be used by another
    fi
    mkdir -p "$(dirname "$venv")"
    "$checkout/tools/setup/venv.sh" "$PYTHON" "$venv"
    # From a copy, because building leaves files behind, and files that were left behind get into the package.
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    cp -r "$checkout/agent" "$checkout/pyproject.toml" "$checkout/README.md" "$checkout/LICENSE" "$copy"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore "$copy"
    if [ -n "$DESTDIR" ]; then # programs name their Python by its whole path: it will be without DESTDIR's
        find "$venv/bin" -type f -exec sed -i '1,2s|/[^ ]*/opt/edge-agent/venv/bin/|/opt/edge-agent/venv/bin/|' {} +
    fi
    mkdir -p "$DESTDIR/usr/local/bin"
    ln -sfn /opt/edge-agent/venv/bin/edge-agent "$DESTDIR/usr/local/bin/edge-agent"
}

version() {
    "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true
}

install_units() {
    install -D -m 644 "$checkout/systemd/edge-agent.service" "$DESTDIR/etc/systemd/system/edge-agent.service"
    install -D -m 644 "$checkout/systemd/edge-agent.sysusers" "$DESTDIR/etc/sysusers.d/edge-agent.conf"
    install -D -m 644 "$checkout/systemd/edge-agent.tmpfiles" "$DESTDIR/etc/tmpfiles.d/edge-agent.conf"
    if [ -z "$DESTDIR" ]; then
        systemd-sysusers edge-agent.conf
        systemd-tmpfiles --create edge-agent.conf
    else
        mkdir -p "$state/models" "$state/outbox"
    fi
}

# The one in the checkout, with the folders of a device; a configuration that is there already stays.
install_config() {
    [ ! -e "$config" ] || return 0
    mkdir -p "$(dirname "$config")"
    sed -e 's|^  dir: models |  dir: /var/lib/edge-agent/models |' \
        -e 's|^  dir: outbox |  dir: /var/lib/edge-agent/outbox |' \
        -e 's|^  dir: samples |  dir: /var/lib/edge-agent/samples |' "$checkout/config.yaml" >"$config.new"
    chmod 640 "$config.new"
    if [ -z "$DESTDIR" ]; then
        chown root:edge-agent "$config.new"
    fi
    mv "$config.new" "$config"
}

# Versions that are there already stay untouched: one of them may be running.
install_models() {
    if [ -z "$DESTDIR" ]; then
        "$venv/bin/python" "$checkout/tools/fetch_models.py" face || true # it says what is wrong; the rest goes on
    fi
    for manifest in "$checkout"/models/*/*/manifest.yaml; do
        bundle=$(dirname "$manifest")
        name=$(basename "$(dirname "$bundle")")
        to=$state/models/$name
        if ! is_complete "$bundle"; then
            echo "install.sh: model $name is left out: its file is not here yet (make models fetches it)" >&2
            continue
        fi
        mkdir -p "$to"
        copy_once "$bundle" "$to/$(basename "$bundle")"
        if [ -e "$(dirname "$bundle")/current" ]; then
            copy_once "$(dirname "$bundle")/current" "$to/current"
        fi
        own "$to"
    done
}

is_complete() {
    [ -f "$1/model.tflite" ] || return 1
    labels=$(sed -n 's/^labels: *\([^ #]*\).*/\1/p' "$1/manifest.yaml")
    [ -z "$labels" ] || [ "$labels" = null ] || [ -f "$1/$labels" ]
}

# Under another name first, so that half a copy is never taken for a whole one.
copy_once() {
    [ ! -e "$2" ] || return 0
    rm -rf "$2.new"
    cp -r "$1" "$2.new"
    own "$2.new"
    mv "$2.new" "$2"
}

own() {
    if [ -z "$DESTDIR" ]; then
        chown -R edge-agent:edge-agent "$1"
    fi
}

enable_service() {
    systemctl enable edge-agent.service
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl try-restart edge-agent.service
    fi
}

main
