#!/bin/sh
# The first process in user-mode-linux: run.sh beside this says for what. The host's root
# is / and read-only; only $WORK, which run.sh made, is written to. Started with the
# variables REPO, CACHE and WORK (host paths) by the kernel's command line.
export PATH=/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
say() { echo "vias: $*"; }
off() {
	sync
	echo o >/proc/sysrq-trigger
	sleep 60 # the kernel ends us
}
must() { "$@" || { say "init: this failed: $*"; off; }; }

must mount -t proc proc /proc
must mount -t sysfs sys /sys
must mount -t tmpfs run /run
# The repository may well be in /tmp, over which a tmpfs comes next.
mkdir /run/src /run/uml /run/work /run/bin /dev/pts /dev/shm
must mount -t hostfs -o "$REPO,ro" src /run/src
must mount -t hostfs -o "$CACHE,ro" uml /run/uml
must mount -t hostfs -o "$WORK" work /run/work
must mount -t tmpfs tmp /tmp
must mount -t tmpfs shm /dev/shm
must mount -t devpts -o ptmxmode=666 pts /dev/pts
ln -s /proc/self/fd /dev/fd
cp /run/src/scripts/kernel/nft /run/bin/nft

# Also for what the kernel asks for by itself: "ip link add type dummy" and the like.
printf '#!/bin/sh\nexec modprobe -d /run/uml "$@"\n' >/run/bin/modules
chmod 755 /run/bin/*
echo /run/bin/modules >/proc/sys/kernel/modprobe
for m in openvswitch veth tun bridge nf_tables; do must /run/bin/modules -q $m; done
must ip link set lo up

# What a test prints must be on the host also if this kernel is killed.
while sleep 1; do sync; done &

export VIAS_DATAPATH=system VIAS_MUST_RUN=1 VIAS_PROGRAMS=/run/work/bin
say "Linux $(uname -r) is up"
while read -r name dir timeout switch count tests; do
	# ovs-vswitchd 3.1 looks for cores at most every 10 s, counts an uptime below that as
	# just having looked, and starts no handler: every upcall would be lost.
	while [ "$switch" = 1 ] && [ "$(cut -d. -f1 /proc/uptime)" -lt 12 ]; do sleep 0.2; done
	began=$(cut -d. -f1 /proc/uptime)
	(cd "/run/src/$dir" && exec timeout -k 10 $((timeout + 20)) "/run/work/bin/$name.test" -test.v=test2json \
		-test.run="$tests" -test.timeout="${timeout}s" -test.parallel=2 -test.count="$count" -test.failfast="$([ "$count" = 1 ] && echo false || echo true)" </dev/null >"/run/work/out/$name" 2>&1)
	rc=$?
	echo $rc >"/run/work/out/$name.rc"
	result=ok
	[ $rc = 0 ] || result="FAILED ($rc)"
	say "$dir: $result, $(($(cut -d. -f1 /proc/uptime) - began)) s"
done </run/work/list
say "done"
off
