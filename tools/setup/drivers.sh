#!/bin/sh
# For `make test-drivers`: an emulator, Debian's kernel for it, and one driver that Debian has as source only.
# drivers.sh FOLDER makes there: vmlinuz, initrd.gz, release (the kernel's name), lib/modules. 410 MB.
set -eu
folder=$1
here=$(dirname "$(realpath "$0")")
PATH=$PATH:/usr/sbin:/sbin
[ "$(uname -m)" = x86_64 ] && [ -e /etc/debian_version ] || {
    echo "make test-drivers needs Debian on x86-64: it boots Debian's own kernel" >&2
    exit 1
}
if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
image=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p')
release=${image#linux-image-}
[ -n "$release" ] || {
    echo "apt knows no linux-image-amd64: is this Debian?" >&2
    exit 1
}
$sudo apt-get install -qq -y --no-install-recommends qemu-system-x86 busybox-static kmod cpio i2c-tools \
    alsa-utils mosquitto gcc make "linux-headers-$release"

rm -rf "$folder"
mkdir -p "$folder/packages"
cd "$folder"
(cd packages && apt-get download -qq -o APT::Sandbox::User= "$image" v4l2loopback-dkms)
for package in packages/*.deb; do dpkg-deb -x "$package" packages; done
mv packages/boot/vmlinuz-* vmlinuz
mkdir lib && mv packages/lib/modules lib/
make -s -C "/usr/src/linux-headers-$release" M="$(echo "$PWD"/packages/usr/src/v4l2loopback-*)" modules
install -D packages/usr/src/v4l2loopback-*/v4l2loopback.ko "lib/modules/$release/extra/v4l2loopback.ko"
depmod -b . "$release"

# What the kernel needs until it sees this machine's files: a shell, and drivers in the order they build on each other.
mkdir -p initrd/bin initrd/mod initrd/proc initrd/sys initrd/dev initrd/newroot
cp "$(command -v busybox)" initrd/bin/busybox
cp "$here/../../tests/drivers/init" initrd/init
modprobe -d . -S "$release" --show-depends -a virtio_pci 9pnet_virtio 9p | awk '/^insmod/ && !seen[$2]++ { print $2 }' |
    { n=100; while read -r module; do cp "$module" "initrd/mod/$n-$(basename "$module")"; n=$((n + 1)); done; }
(cd initrd && find . | cpio --quiet -o -H newc | gzip) >initrd.gz
rm -rf packages initrd
echo "$release" >release
