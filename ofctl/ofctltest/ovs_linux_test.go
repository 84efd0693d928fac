package ofctltest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// TestIntegrationConformance runs the suite over Open vSwitch: one for all cases,
// with a bridge, whose ports are TAP devices, for each that runs at the same time.
func TestIntegrationConformance(t *testing.T) {
	ovs := ovstest.Start(t)
	// Kernels send router solicitations and the like from new devices.
	ovs.IP("netns", "exec", ovs.Netns, "sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")
	var bridges atomic.Int32
	idle := make(chan *ovsHarness, 256) // making a bridge is what takes longest
	RunConformance(t, func(sub *testing.T) Harness {
		if strings.HasSuffix(sub.Name(), "an_atomic_fragment") {
			itest.NotOn(sub, itest.System, "the kernel has it for a first fragment, ovs-vswitchd for none: it depends on who sees it")
		}
		var h *ovsHarness
		select {
		case h = <-idle:
		default:
			h = newOVSHarness(t, ovs, fmt.Sprint("c", bridges.Add(1)))
		}
		h.t = sub
		sub.Cleanup(func() {
			if !sub.Failed() {
				h.reset()
				idle <- h
			}
		})
		return h
	})
}

// ovsHarness is a bridge of a real Open vSwitch.
type ovsHarness struct {
	t       *testing.T
	ovs     *ovstest.Switch
	bridge  string
	address string
	tagged  bool // a port has a tag
	ports   []uint32
	names   map[uint32]string
	taps    map[uint32]*os.File
	out     map[uint32]chan []byte
}

func newOVSHarness(t *testing.T, ovs *ovstest.Switch, bridge string) *ovsHarness {
	h := &ovsHarness{
		t: t, ovs: ovs, bridge: bridge, address: ovs.Mgmt(bridge),
		names: make(map[uint32]string), taps: make(map[uint32]*os.File), out: make(map[uint32]chan []byte),
	}
	args := []string{"add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=" + itest.BridgeType(t), "fail-mode=secure"}
	for i := range 4 {
		no, name := uint32(i+1), fmt.Sprint(bridge, "p", i)
		h.ports, h.names[no], h.out[no] = append(h.ports, no), name, make(chan []byte, 256)
		tap := openTAP(t, ovs.Netns, name)
		h.taps[no] = tap
		done, out := make(chan struct{}), h.out[no]
		go func() { defer close(done); readTAP(tap, out) }()
		t.Cleanup(func() { _ = tap.Close(); <-done })
		args = append(args, "--", "add-port", bridge, name,
			"--", "set", "interface", name, "ofport_request="+strconv.Itoa(i+1))
	}
	h.vsctl(args...)
	var get []string
	for _, no := range h.ports {
		get = append(get, "--", "get", "interface", h.names[no], "ofport")
	}
	require.Equal(t, "1\n2\n3\n4", h.vsctl(get...))
	return h
}

// reset makes the bridge as it was when it was new.
func (h *ovsHarness) reset() {
	c, err := ofctl.Dial(context.Background(), h.address, ofctl.Config{})
	require.NoError(h.t, err)
	require.NoError(h.t, c.Apply(context.Background(), []ofctl.Mod{
		ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll}},
		ofctl.GroupMod{Command: ofctl.Delete, Group: ofctl.Group{ID: groupAll}},
	}))
	require.NoError(h.t, c.Apply(context.Background(), []ofctl.Mod{ofctl.MeterMod{Command: ofctl.Delete, Meter: ofctl.Meter{ID: ofctl.MeterAll}}}))
	require.NoError(h.t, c.Close())
	if h.tagged {
		h.tagged = false
		args := []string{}
		for _, name := range h.names {
			args = append(args, "--", "clear", "port", name, "tag")
		}
		h.vsctl(args...)
	}
	_, err = h.ovs.Appctl(context.Background(), "fdb/flush", h.bridge)
	require.NoError(h.t, err)
}

// openTAP makes a TAP device in a network namespace and sets it up.
func openTAP(t *testing.T, netns, name string) *os.File {
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		// The thread changes its namespace for good: it ends with the goroutine.
		runtime.LockOSThread()
		fd, err := tapIn("/var/run/netns/"+netns, name)
		made <- result{fd, err}
	}()
	r := <-made
	require.NoError(t, r.err)
	return os.NewFile(uintptr(r.fd), name)
}

func tapIn(netns, name string) (fd int, err error) {
	ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return 0, err
	}
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return 0, err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	ifr.SetUint16(unix.IFF_UP)
	return fd, unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// readTAP hands on what leaves by a TAP device until it is closed.
func readTAP(tap *os.File, out chan<- []byte) {
	for {
		b := make([]byte, 2048)
		n, err := tap.Read(b)
		if err != nil {
			return
		}
		out <- b[:n]
	}
}

func (h *ovsHarness) vsctl(args ...string) string {
	h.t.Helper()
	return strings.TrimSpace(h.ovs.MustVsctl(args...))
}

func (h *ovsHarness) Connect() ofctl.Switch {
	c, err := ofctl.Dial(h.t.Context(), h.address, ofctl.Config{})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (h *ovsHarness) Ports() []uint32 { return h.ports }

func (h *ovsHarness) Send(no uint32, frame []byte) {
	_, err := h.taps[no].Write(frame)
	require.NoError(h.t, err)
}

func (h *ovsHarness) Expect(no uint32, timeout time.Duration) []byte {
	select {
	case f := <-h.out[no]:
		return f
	case <-time.After(timeout):
		return nil
	}
}

func (h *ovsHarness) SetTag(no uint32, vlan uint16) {
	h.tagged = true
	h.vsctl("set", "port", h.names[no], "tag="+strconv.Itoa(int(vlan)))
}

func (h *ovsHarness) AddPort(name string) {
	h.vsctl("add-port", h.bridge, name, "--", "set", "interface", name, "type=internal")
}

func (h *ovsHarness) DeletePort(name string) { h.vsctl("del-port", h.bridge, name) }

// Settle throws the datapath's caches away, which also credits their counters.
func (h *ovsHarness) Settle() {
	_, err := h.ovs.Appctl(h.t.Context(), "revalidator/purge")
	require.NoError(h.t, err)
}
