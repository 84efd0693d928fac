#!/bin/bash
# make test-kernel: the integration tests on Open vSwitch's kernel datapath, on a machine
# whose kernel need not have it. Debian's user-mode-linux, which has openvswitch.ko, runs
# as an ordinary process, with the host's root as its own (read-only) and a scratch
# directory to write to; init.sh starts the test programs in it, which are built here.
# Nothing is installed, no module is loaded, and nothing is left behind.
#
#   PACKAGES="./bypass/ofpath" RUN='^TestIntegrationScale' make test-kernel
#   KEEP=1 make test-kernel      # keeps the scratch directory, and says where it is
#
# testsum runs it anew for a test that failed beside others, as it would go test:
#   scripts/kernel/run.sh -count 2 -failfast -run EXPRESSION 'PACKAGE (kernel)'
set -euo pipefail
cd "$(dirname "$0")/../.."
GO=${GO:-go}
RUN=${RUN:-} COUNT=1
LIMIT=${LIMIT:-1400} # seconds, for all of it
MEM=${MEM:-3G}
cache=$PWD/.cache/uml
again=(-again '^TestIntegration' -test scripts/kernel/run.sh)
if [ $# = 6 ] && [ "$1 $3 $4" = "-count -failfast -run" ]; then
	module=$($GO list -m)
	COUNT=$2 RUN=$5 PACKAGES=${6% (kernel)}
	PACKAGES=.${PACKAGES#"$module"} again=()
fi

# Each package with its time-out in seconds, 1 if its tests start Open vSwitch, and which
# tests. Of whole nodes only the matrix: others wait for bounds that user-mode-linux does not
# keep to on a machine that is busy: RUN=. PACKAGES=./internal/lab tries them all.
all="./tap 60 0
./internal/itest 60 0
./internal/seg 120 0
./bypass/underlay 120 0
./ofctl 120 1
./ofctl/ovs 60 1
./ofctl/ofctltest 180 1
./bypass/ofpath 800 1
./internal/lab 600 1 ^TestIntegration(Lab|LabAfterCrash|LabInterrupted|OVSDRestartAndStop|Matrix)$"

die() {
	echo "kernel: $*" >&2
	exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] || die "user-mode-linux runs on Linux on x86-64 alone, this is $(uname -sm)"
case $PWD in *[[:space:]]*) die "a kernel's command line takes no path with a space: $PWD" ;; esac
scripts/kernel/fetch.sh

began=$SECONDS
work=$(mktemp -d /var/tmp/vias-kernel.XXXXXX)
uml="" follow=""
# finish ends what was started here, by its id, and removes the scratch directory.
finish() {
	trap - EXIT INT TERM
	[ -z "$follow" ] || kill "$follow" 2>/dev/null || :
	# Its group are the kernel and the processes of its processes: a session of its own.
	[ -z "$uml" ] || kill -KILL -- "-$uml" 2>/dev/null || :
	if [ -n "${KEEP:-}" ]; then echo "kernel: kept $work"; else rm -rf "$work"; fi
}
trap finish EXIT
trap 'finish; exit 130' INT
trap 'finish; exit 143' TERM
mkdir "$work/bin" "$work/out" "$work/uml"
: >"$work/console"

packages=${PACKAGES:-$(cut -d' ' -f1 <<<"$all")}
for p in $packages; do
	line=$(grep "^$p " <<<"$all") || die "$p has no tests for this: one of" $(cut -d' ' -f1 <<<"$all")
	read -r dir timeout switch tests <<<"${line#./}"
	echo "${p##*/} $dir $timeout $switch $COUNT ${RUN:-${tests:-^TestIntegration}}"
done >"$work/list"
# Built here: with the host's cache, on all of its cores. No race detector: it needs an
# address space that user-mode-linux does not have.
CGO_ENABLED=0 $GO test -c -o "$work/bin/" $packages
CGO_ENABLED=0 $GO build -o "$work/bin/" ./examples/node
preload=""
if command -v gcc >/dev/null; then
	gcc -O2 -Wall -shared -fPIC -o "$work/xstate.so" scripts/kernel/xstate.c -ldl
	preload=$work/xstate.so
elif grep -qw amx_tile /proc/cpuinfo; then
	die "this processor has AMX: user-mode-linux needs scripts/kernel/xstate.c, and that needs gcc (make deps)"
fi
# Its memory is a file of that size, sparse, in /dev/shm if that is large enough.
tmp=/dev/shm
[ "$(df --output=avail -B1M /dev/shm | tail -1)" -gt 4096 ] || tmp=$work

# One processor is all it can use. Each system call of the guest goes to and fro between
# two processes here: on one core that takes half the time, and less where others wait.
on=(taskset -c "$(awk -F'[-,]' '/^Cpus_allowed_list/ {print $NF}' /proc/self/status | tr -dc 0-9)")
[ "$(id -u)" != 0 ] || on+=(nice -n -10)
LD_PRELOAD=$preload TMPDIR=$tmp setsid "${on[@]}" "$cache/usr/bin/linux.uml" mem="$MEM" \
	root=/dev/root rootfstype=hostfs rootflags=/ ro init="$PWD/scripts/kernel/init.sh" \
	REPO="$PWD" CACHE="$cache" WORK="$work" uml_dir="$work/uml" umid=vias noreboot \
	con=null con0=null,fd:1 </dev/null >"$work/console" 2>&1 &
uml=$!
tail -n +1 -s 0.5 -f --pid=$uml "$work/console" | sed -nu 's/^vias: /kernel: /p' &
follow=$!
cut=""
while kill -0 $uml 2>/dev/null; do
	if ((SECONDS - began > LIMIT)); then
		cut="cut off after $LIMIT s"
		break
	fi
	sleep 0.5
done
# What its processes left, if it was killed.
kill -KILL -- "-$uml" 2>/dev/null || :
wait $uml 2>/dev/null || :
uml=""
wait $follow 2>/dev/null || :
follow=""

# A program that has no result was not started, or not ended: its output so far has it.
while read -r name dir _; do
	[ -e "$work/out/$name" ] || : >"$work/out/$name"
	$GO tool test2json -t -p "$($GO list "./$dir") (kernel)" <"$work/out/$name"
	[ "$(cat "$work/out/$name.rc" 2>/dev/null)" = 0 ] || echo '{"Action":"run-failed"}'
done <"$work/list" >"$work/json"
rc=0
$GO run ./internal/cmd/testsum "${again[@]}" "$work/json" >"$work/summary" || rc=1
if ! grep -q '^vias: done' "$work/console"; then
	rc=1
	echo "kernel: it did not come to its end: ${cut:-user-mode-linux ended early}. Its console's last lines:"
	tail -n 40 "$work/console" | sed 's/^/    /'
	echo "kernel: see the whole with KEEP=1 make test-kernel. If the last line is \"Run …/init.sh\" the"
	echo "kernel: guest could not run a process; if a package is missing in the list above, it hung there."
fi
cat "$work/summary"
# testsum's last line is the number of tests: this must not stand behind it.
exit $rc
