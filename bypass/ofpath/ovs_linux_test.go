package ofpath_test

import (
	"context"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// ovsBench is a datapath on a bridge of a real Open vSwitch.
type ovsBench struct {
	other
	ovs    *ovstest.Switch
	br     string
	mgmt   string
	uplink string
	ports  [5]uint32
	fds    [5]int
}

// newOVSBench makes a bridge named after n.
func newOVSBench(t testing.TB, ovs *ovstest.Switch, n int) *ovsBench {
	return newOVSBenches(t, ovs, n, 1)[0]
}

// newOVSBenches makes several bridges, named after n and the numbers after it, in one
// transaction: the switch configures itself anew after each.
func newOVSBenches(t testing.TB, ovs *ovstest.Switch, n, count int) (list []*ovsBench) {
	var args, ask, want []string
	for ; len(list) < count; n++ {
		b := &ovsBench{other: other{t: t}, ovs: ovs, br: "br" + strconv.Itoa(n), uplink: "u" + strconv.Itoa(n)}
		b.mgmt = ovs.Mgmt(b.br)
		list = append(list, b)
		args = append(args, "--", "add-br", b.br, "--", "set", "bridge", b.br, "datapath_type="+itest.BridgeType(t), "fail-mode=secure",
			"--", "set", "port", b.br, "trunks=0")
		for i, name := range []string{bypasstest.Uplink: "u", bypasstest.WorkloadA: "wa", bypasstest.WorkloadB: "wb", bypasstest.Plain: "t"} {
			name += strconv.Itoa(n)
			ovs.IP("-n", ovs.Netns, "link", "add", name, "type", "veth", "peer", "name", "x"+name)
			ovs.IP("-n", ovs.Netns, "link", "set", name, "up")
			ovs.IP("-n", ovs.Netns, "link", "set", "x"+name, "up")
			b.fds[i] = packetSocket(t, ovs.Netns, "x"+name)
			b.ports[i] = uint32(i + 1)
			vlan := "trunks=0"
			if tag := portsOf[i].Tag; tag != 0 {
				vlan = "tag=" + strconv.Itoa(int(tag))
			}
			args = append(args, "--", "add-port", b.br, name, vlan,
				"--", "set", "interface", name, "ofport_request="+strconv.Itoa(i+1))
			ask, want = append(ask, "--", "get", "interface", name, "ofport"), append(want, strconv.Itoa(i+1))
		}
	}
	ovs.MustVsctl(args[1:]...)
	require.Equal(t, strings.Join(want, "\n"), strings.TrimSpace(ovs.MustVsctl(ask[1:]...)))
	for _, b := range list {
		ovs.IP("-n", ovs.Netns, "link", "set", b.br, "up")
		b.ports[bypasstest.Stack] = ofctl.PortLocal
		b.fds[bypasstest.Stack] = packetSocket(t, ovs.Netns, b.br)
		sw, err := b.dial(context.Background())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, sw.Close()) })
		b.sw = sw
	}
	return list
}

func (b *ovsBench) dial(ctx context.Context) (ofctl.Switch, error) {
	return ofctl.Dial(ctx, b.mgmt, ofctl.Config{})
}

// packetSocket reads and writes the frames of an interface of a namespace.
func packetSocket(t testing.TB, netns, name string) int {
	t.Helper()
	var fd int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is in another namespace
		fd, err = openPacket(netns, name)
	}()
	<-done
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return fd
}

func openPacket(netns, name string) (int, error) {
	ns, err := unix.Open("/var/run/netns/"+netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return 0, err
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	const all = uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
}

func (b *ovsBench) Open(ctx context.Context) (bypass.Datapath, error) {
	return ofpath.Open(ofpath.Config{Dial: b.dial, Uplink: b.uplink})(ctx)
}

func (b *ovsBench) Ofport(e bypasstest.End) uint32                   { return b.ports[e] }
func (b *ovsBench) Foreign() func() string                           { return b.foreign() }
func (b *ovsBench) Delete(e uint16, d bypass.Direction, peer uint32) { b.delete(e, d, peer) }

// Settle makes the datapath forget what it has cached, and counts what that was.
func (b *ovsBench) Settle() {
	_, err := b.ovs.Appctl(context.Background(), "revalidator/purge")
	require.NoError(b.t, err)
}

func (b *ovsBench) Send(e bypasstest.End, frame []byte) {
	_, err := unix.Write(b.fds[e], frame)
	require.NoError(b.t, err)
}

// Recv skips what this end sent itself, and what is not the suite's.
func (b *ovsBench) Recv(e bypasstest.End, timeout time.Duration) []byte {
	buf := make([]byte, 4096)
	end := time.Now().Add(timeout)
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		fds := []unix.PollFd{{Fd: int32(b.fds[e]), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil || fds[0].Revents == 0 {
			continue
		}
		n, from, err := unix.Recvfrom(b.fds[e], buf, 0)
		require.NoError(b.t, err)
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && e != bypasstest.Stack && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if bypasstest.Sought(buf[:n]) {
			return slices.Clone(buf[:n])
		}
	}
}

// reset makes the bridge as it was when it was new.
func (b *ovsBench) reset() {
	b.apply(ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll}},
		ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: 0xfffffffc}}) // OFPG_ALL
	b.apply(ofctl.MeterMod{Command: ofctl.Delete, Meter: ofctl.Meter{ID: ofctl.MeterAll}})
	_, err := b.ovs.Appctl(context.Background(), "fdb/flush", b.br)
	require.NoError(b.t, err)
	for _, fd := range b.fds {
		for err := error(nil); err == nil; {
			_, _, err = unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT)
		}
	}
}

// TestIntegrationDatapath runs the conformance suite on Open vSwitch. Making bridges is
// what takes longest: a case takes over that of one that is over.
func TestIntegrationDatapath(t *testing.T) {
	beside(t)
	runSuite(t, newOVSBenches(t, ovstest.Start(t), 1, suiteBenches))
}

// suiteBenches are as many cases as run side by side.
const suiteBenches = 12

// reused is a bench that takes one case after the other.
type reused interface {
	bypasstest.Bench
	take(t *testing.T) // for a case, and makes the bridge what it begins with
	reset()
}

// runSuite runs the conformance suite on benches, which are suiteBenches.
func runSuite[B reused](t *testing.T, benches []B) {
	idle := make(chan B, len(benches))
	for _, b := range benches {
		idle <- b
	}
	bypasstest.RunDatapath(t, bypasstest.DatapathHarness{AtOnce: len(benches), Brief: true, New: func(sub *testing.T) bypasstest.Bench {
		b := <-idle
		b.take(sub)
		sub.Cleanup(func() {
			defer func() { idle <- b }()
			b.reset()
		})
		return b
	}})
}

func (b *ovsBench) take(t *testing.T) {
	b.t = t
	b.normal()
}

func ovsDatapath(b *testing.B) bypass.Datapath {
	bench := newOVSBench(b, ovstest.Start(b), 0)
	dp, err := bench.Open(b.Context())
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, dp.Close()) })
	waitUp(b, dp)
	return dp
}

func BenchmarkApplyOVS(b *testing.B) { benchmarkApply(b, ovsDatapath(b)) }
func BenchmarkLeaseOVS(b *testing.B) { benchmarkLease(b, ovsDatapath(b)) }
func BenchmarkRulesOVS(b *testing.B) { benchmarkRules(b, ovsDatapath(b)) }
