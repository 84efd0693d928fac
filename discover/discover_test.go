package discover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb/ovsdbtest"
	"github.com/viasnet/vias/tap"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const patience = 20 * time.Second

// sink remembers what is attached, and how often it was told.
type sink struct {
	mu                sync.Mutex
	have              map[string]Endpoint
	attached, removed int
	fail              error
}

func (s *sink) Attach(_ context.Context, e Endpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.have[e.Name] = e
	s.attached++
	return nil
}

func (s *sink) Detach(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.have, name)
	s.removed++
	return nil
}

func (s *sink) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.have))
}

// calls is how often each method was called with success.
func (s *sink) calls() (attached, removed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached, s.removed
}

func (s *sink) get(name string) Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have[name]
}

// world is a bridge in memory with its database, and a Discoverer at work.
type world struct {
	*testing.T
	db   *ovsdbtest.Server
	sw   *ofctltest.Switch
	sink *sink
	d    *Discoverer

	mu     sync.Mutex
	holder map[netip.Addr]string
}

// own is what is always at the bridge.
func own() []ovsdb.Port {
	return []ovsdb.Port{dbPort("br0", "internal", 0, ovsdb.LocalPort), dbPort("eth0", "", 0, 1), dbPort("vias0", "", 7, 2)}
}

func newWorld(t *testing.T, edit func(*Config)) *world {
	dir, err := os.MkdirTemp("", "vd")
	require.NoError(t, err)
	w := &world{T: t, db: ovsdbtest.New(filepath.Join(dir, "db.sock")), sw: ofctltest.New(ofctltest.Config{}),
		sink: &sink{have: map[string]Endpoint{}}, holder: map[netip.Addr]string{}}
	require.NoError(t, w.db.Start())
	for i := range uint32(6) {
		_, err := w.sw.AddPort(ofctltest.Port{No: i + 1, Name: fmt.Sprint("p", i+1)})
		require.NoError(t, err)
	}
	cfg := Config{Bridge: "br0", Device: "vias0", Uplink: "eth0", Sink: w.sink, Retry: 20 * time.Millisecond,
		OVSDB:  ovsdb.Config{Address: w.db.Address(), RetryMax: 100 * time.Millisecond},
		Dial:   func(context.Context) (ofctl.Switch, error) { return w.sw.Connect(), nil },
		Holder: func(_ tap.MAC, ip netip.Addr) string { w.mu.Lock(); defer w.mu.Unlock(); return w.holder[ip] }}
	if edit != nil {
		edit(&cfg)
	}
	w.d, err = New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		flows, err := w.sw.Flows(context.Background(), ofctl.Owned(0x7664<<48, 0xffff<<48))
		require.NoError(t, err)
		require.Empty(t, flows, "nothing is left in the switch")
		w.db.Stop()
		require.NoError(t, w.sw.Close())
		require.NoError(t, os.RemoveAll(dir))
	})
	return w
}

// ports sets what the bridge has beside its own ports.
func (w *world) ports(list ...ovsdb.Port) {
	w.db.Set(ovsdb.Bridge{Name: "br0", DatapathType: "netdev", Ports: append(own(), list...)})
}

func (w *world) await(what string, good func() bool) {
	w.Helper()
	require.Eventually(w, good, patience, 5*time.Millisecond, "%s", what)
}

func (w *world) attached(names ...string) {
	w.Helper()
	w.await(fmt.Sprint(names, " are attached"), func() bool { return slices.Equal(w.sink.names(), names) })
}

func (w *world) port(name string) PortStatus {
	for _, p := range w.d.Status().Ports {
		if p.Port == name {
			return p
		}
	}
	return PortStatus{}
}

// learns waits until copies of ofport's frames come up.
func (w *world) learns(ofport uint32) {
	w.Helper()
	w.await("it is learned of", func() bool {
		flows, err := w.sw.Flows(w.Context(), ofctl.AllFlows)
		return err == nil && slices.ContainsFunc(flows, func(f ofctl.FlowStat) bool {
			return f.Table == 24 && f.Cookie == 0x7664<<48|uint64(ofport)
		})
	})
}

func full(name string, ofport int64, mac, ip string) ovsdb.Port {
	return dbPort(name, "", 7, ofport, "iface-id", "of-"+name, "attached-mac", mac, "ip", ip)
}

func TestFromIDs(t *testing.T) {
	w := newWorld(t, nil)
	w1, w2 := full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"), full("w2", 4, "02:00:00:00:00:02", "192.168.7.2")
	w.ports(w1, dbPort("t1", "vxlan", 7, 9))
	w.attached("of-w1")
	require.Equal(t, Endpoint{Name: "of-w1", Port: "w1", Ofport: 3, MAC: guest, IPs: []netip.Addr{ip4}, Known: FromIDs}, w.sink.get("of-w1"))
	w.ports(w1, w2)
	w.attached("of-w1", "of-w2")
	require.False(t, w.port("w1").Learning)

	// The server dies and comes back, and one port went meanwhile.
	w.db.Stop()
	w.ports(w2)
	require.NoError(t, w.db.Start())
	w.attached("of-w2")
	times, _ := w.sink.calls()
	require.Equal(t, 2, times, "nothing twice")

	// ovs-vswitchd starts again: for a moment no number is known; then there is another.
	unknown := full("w2", 0, "02:00:00:00:00:02", "192.168.7.2")
	w.ports(unknown, w1)
	w.attached("of-w1", "of-w2")
	require.EqualValues(t, 4, w.sink.get("of-w2").Ofport)
	w.ports(full("w2", 6, "02:00:00:00:00:02", "192.168.7.2"))
	w.await("its new number", func() bool { return w.sink.get("of-w2").Ofport == 6 })
	w.ports(full("w2", -1, "02:00:00:00:00:02", "192.168.7.2"))
	w.attached()
	require.Contains(t, w.port("w2").Reason, "could not open")
}

func TestTwoOfOneName(t *testing.T) {
	w := newWorld(t, nil)
	a, b := full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"), full("w2", 4, "02:00:00:00:00:02", "192.168.7.2")
	b.Interfaces[0].ExternalIDs["iface-id"] = "of-w1"
	w.ports(a, b)
	w.await("the second is refused", func() bool { return w.port("w2").Reason == "its name of-w1 is that of port w1" })
	require.Equal(t, "w1", w.sink.get("of-w1").Port)
	w.ports(b)
	w.await("the second has it", func() bool { return w.sink.get("of-w1").Port == "w2" })
}

func TestSinkRefuses(t *testing.T) {
	w := newWorld(t, nil)
	w.sink.mu.Lock()
	w.sink.fail = errors.New("in use")
	w.sink.mu.Unlock()
	w.ports(full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"))
	w.await("it is said", func() bool { return w.port("w1").Reason == "in use" })
	w.sink.mu.Lock()
	w.sink.fail = nil
	w.sink.mu.Unlock()
	w.attached("of-w1")
	w.await("no reason", func() bool { return w.port("w1").Reason == "" })
}

func TestLearned(t *testing.T) {
	w := newWorld(t, nil)
	w.ports(dbPort("w1", "", 7, 3))
	w.learns(3)
	require.Equal(t, "nothing was heard of it yet", w.port("w1").Reason)
	w.sw.Input(3, dhcpFrame(guest, guest, netip.IPv4Unspecified()))
	w.await("its MAC is known", func() bool { return w.port("w1").Learning })
	w.sw.Input(3, arpFrame(guest, guest, ip4))
	w.attached("w1")
	require.Equal(t, Endpoint{Name: "w1", Port: "w1", Ofport: 3, MAC: guest, IPs: []netip.Addr{ip4}, Known: Learned}, w.sink.get("w1"))
	w.sw.Input(3, ndFrame(guest, 135, netip.IPv6Unspecified(), ip6))
	w.await("both families", func() bool { return slices.Equal(w.sink.get("w1").IPs, []netip.Addr{ip4, ip6}) })
	w.ports()
	w.attached()
}

// What is in external_ids, or announced by a peer, is never taken by learning, and is had
// when it is free.
func TestLearnedNeverOverrides(t *testing.T) {
	w := newWorld(t, nil)
	w.mu.Lock()
	w.holder[ip6] = "peer h2"
	w.mu.Unlock()
	w.ports(full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"), dbPort("w2", "", 7, 4))
	w.learns(4)
	w.sw.Input(4, arpFrame(guest2, guest2, ip4))
	w.await("refused", func() bool { return w.port("w2").Reason == "192.168.7.1 is learned, but port w1 has it" })
	w.sw.Input(4, ndFrame(guest2, 135, netip.IPv6Unspecified(), ip6))
	w.await("refused", func() bool { return w.port("w2").Refused == 2 })
	w.attached("of-w1")
	w.mu.Lock()
	delete(w.holder, ip6)
	w.mu.Unlock()
	w.attached("of-w1", "w2")
	require.Equal(t, []netip.Addr{ip6}, w.sink.get("w2").IPs)
	w.ports(dbPort("w2", "", 7, 4))
	w.await("freed", func() bool { return slices.Equal(w.sink.get("w2").IPs, []netip.Addr{ip4, ip6}) })
	// And somebody who names the address gets it back.
	w.ports(full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"), dbPort("w2", "", 7, 4))
	w.await("given back", func() bool { return slices.Equal(w.sink.get("w2").IPs, []netip.Addr{ip6}) })
	w.attached("of-w1", "w2")
}

// A MAC that is another's is not learned either.
func TestLearnedMAC(t *testing.T) {
	w := newWorld(t, nil)
	w.ports(full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"), dbPort("w2", "", 7, 4))
	w.learns(4)
	w.sw.Input(4, arpFrame(guest, guest, netip.MustParseAddr("192.168.7.2")))
	w.await("refused", func() bool { return w.port("w2").Reason == "02:00:00:00:00:01 is learned, but port w1 has it" })
	w.attached("of-w1")
}

// A hostile guest: 100,000 requests with random addresses.
func TestFlood(t *testing.T) {
	w := newWorld(t, nil)
	w.ports(dbPort("w1", "", 7, 3), dbPort("w2", "", 7, 4))
	w.learns(3)
	w.learns(4)
	for i := range 100_000 {
		mac := guest
		if i%2 == 1 {
			mac = tap.MAC{2, 1, 1, byte(i >> 16), byte(i >> 8), byte(i)}
		}
		w.sw.Input(3, arpFrame(mac, mac, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
	w.sw.Input(4, arpFrame(guest2, guest2, ip4))
	w.await("the other is learned", func() bool { return w.sink.get("w2").MAC == guest2 })
	require.LessOrEqual(t, len(w.sink.get("w1").IPs), defaultMaxLearned)
	times, _ := w.sink.calls()
	require.LessOrEqual(t, times, 2*defaultMaxLearned+2)
	flows, err := w.sw.Flows(t.Context(), ofctl.AllFlows)
	require.NoError(t, err)
	require.Less(t, len(flows), 60)
	w.await("it is counted", func() bool { return w.port("w1").Full > 0 })
}

// Without a meter's help the port's room is the bound.
func TestTake(t *testing.T) {
	p := port{ofport: 3}
	for i := range 100_000 {
		p.take(claim{guest, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, 8)
		p.take(claim{guest2, ip4}, 8)
	}
	require.Len(t, p.claims, 8)
	require.EqualValues(t, 100_000-8+100_000, p.full)
}

func TestSkipAndNoLearning(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Skip = func(port string) bool { return port == "w1" }
		c.NoLearning, c.Dial = true, nil
	})
	w.ports(full("w1", 3, "02:00:00:00:00:01", "192.168.7.1"), full("w2", 4, "02:00:00:00:00:02", "192.168.7.2"), dbPort("w3", "", 7, 5))
	w.attached("of-w2")
	require.Equal(t, "attached by configuration", w.port("w1").Reason)
}

// The switch is lost with all its flows, and what is learned of comes again.
func TestSwitchRestarts(t *testing.T) {
	w := newWorld(t, nil)
	w.ports(dbPort("w1", "", 7, 3))
	w.learns(3)
	w.sw.Restart(nil)
	w.learns(3)
	w.says(3, "w1")
}

func TestConfig(t *testing.T) {
	good := Config{Bridge: "br0", Sink: &sink{}, NoLearning: true}
	_, err := New(good)
	require.NoError(t, err)
	for want, edit := range map[string]func(*Config){
		"Bridge is missing": func(c *Config) { c.Bridge = "" },
		"Sink is missing":   func(c *Config) { c.Sink = nil },
		"Dial is missing":   func(c *Config) { c.NoLearning = false },
		"MaxLearned":        func(c *Config) { c.MaxLearned = 17 },
		"MaxPorts":          func(c *Config) { c.MaxPorts = -1 },
		"Table":             func(c *Config) { c.Table = 254 },
		"Priority":          func(c *Config) { c.Priority = 0xffff },
		"negative":          func(c *Config) { c.Retry = -1 },
		"address":           func(c *Config) { c.OVSDB.Address = "x" },
	} {
		c := good
		edit(&c)
		_, err := New(c)
		require.ErrorContains(t, err, want)
	}
}

// says has a guest say who it is until it is attached, as guests do.
func (w *world) says(ofport uint32, name string) {
	w.Helper()
	w.await(name+" is attached", func() bool {
		w.sw.Input(ofport, arpFrame(guest, guest, ip4))
		return slices.Equal(w.sink.names(), []string{name})
	})
}

// Without a database the switch's own list of ports, and its port-status, tell.
func TestNoDatabase(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.NoDatabase, c.Uplink, c.Device, c.Exclude = true, "p1", "p2", []string{"p4"} })
	w.learns(3)
	require.Equal(t, "the uplink", w.port("p1").Reason)
	require.Equal(t, "excluded by configuration", w.port("p4").Reason)
	w.says(3, "p3")
	require.Equal(t, Endpoint{Name: "p3", Port: "p3", Ofport: 3, MAC: guest, IPs: []netip.Addr{ip4}, Known: Learned}, w.sink.get("p3"))

	// It goes, and another one comes with its name and number: nothing of the first is believed.
	require.True(t, w.sw.RemovePort(3))
	w.attached()
	_, err := w.sw.AddPort(ofctltest.Port{No: 3, Name: "p3"})
	require.NoError(t, err)
	w.learns(3)
	require.Empty(t, w.sink.names())
	// A new one is seen at once, too.
	_, err = w.sw.AddPort(ofctltest.Port{No: 9, Name: "late"})
	require.NoError(t, err)
	w.learns(9)
	w.says(9, "late")
	_, err = New(Config{Bridge: "br0", Sink: w.sink, NoDatabase: true, NoLearning: true})
	require.ErrorContains(t, err, "nothing to find addresses by")
}

// What is attached outlives the connection, and is compared when the switch is back.
func TestNoDatabaseSwitchRestarts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.NoDatabase, c.Uplink, c.Device = true, "p1", "p2" })
	w.learns(3)
	w.says(3, "p3")
	w.sw.Restart(nil)
	w.learns(4)
	require.Equal(t, []string{"p3"}, w.sink.names())
	require.True(t, w.sw.RemovePort(3))
	w.attached()
	attached, removed := w.sink.calls()
	require.Equal(t, [2]int{1, 1}, [2]int{attached, removed})
}
