#!/bin/sh
# Gets Debian's user-mode-linux, a kernel that runs as a process, into .cache/uml: it is
# unpacked, not installed. Prints nothing but on the first time.
set -eu
cd "$(dirname "$0")/../.."
cache=.cache/uml
[ -x "$cache/usr/bin/linux.uml" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "kernel: no apt-get here: unpack Debian's package user-mode-linux into $PWD/$cache" >&2
	exit 1
fi
echo "kernel: downloading user-mode-linux (41 MB)"
rm -rf "$cache.new"
mkdir -p "$cache.new"
trap 'rm -rf "$cache.new"' EXIT
trap 'exit 130' INT TERM
download() { (cd "$cache.new" && apt-get download -q -o "APT::Sandbox::User=$(id -un)" user-mode-linux >/dev/null); }
# Without package lists, or with old ones, the first try fails.
if ! download 2>/dev/null; then
	[ "$(id -u)" != 0 ] || apt-get update -q -o DPkg::Lock::Timeout=120 >/dev/null
	download
fi
dpkg -x "$cache.new"/*.deb "$cache.new"
rm -f "$cache.new"/*.deb
# Where modprobe -d looks.
mkdir -p "$cache.new/lib"
ln -s ../usr/lib/uml/modules "$cache.new/lib/modules"
rm -rf "$cache"
mv "$cache.new" "$cache"
