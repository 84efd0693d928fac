#!/bin/sh
# Installs the programs that the integration tests and the lab start, where they are
# missing; "deps.sh bench" those that make bench compares with. Debian and its like, as
# root. Prints nothing when nothing is missing.
set -eu

missing=""
need() { # program package...
	command -v "$1" >/dev/null 2>&1 && return
	shift
	missing="$missing $*"
}
PATH="$PATH:/usr/sbin:/sbin"
if [ "${1:-}" = bench ]; then
	need openvpn openvpn
	need tincd tinc
	need turnserver coturn
	need wg wireguard-tools
	need openssl openssl
else
	need ovs-vswitchd openvswitch-switch
	need iperf3 iperf3
	need nft nftables
	need ip iproute2
	need ping iputils-ping
	need ethtool ethtool
	need tcpdump tcpdump
	need tshark tshark
	need curl curl
	need sysctl procps
	need gcc gcc libc6-dev # go test -race
	need prosody prosody
	need turnserver coturn
	need lxc-start lxc # system containers in the nested lab
	need modprobe kmod # make test-kernel, in its own kernel
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: missing packages:$missing (install them, or run this as root where there is apt-get)" >&2
	exit 1
fi
echo "deps: installing$missing"

# The lab starts Open vSwitch itself, one for each host. Debian's own service is not
# needed, and where there is no init it cannot start: it is not tried.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 130' INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
install() {
	# shellcheck disable=SC2086 # a list
	apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 $missing >/dev/null
}
# Without package lists, or with old ones, the first try fails.
if [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ] || ! install 2>/dev/null; then
	apt-get update -q -o DPkg::Lock::Timeout=120 >/dev/null
	install
fi
