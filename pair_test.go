package vias

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
	"github.com/viasnet/vias/tap/taptest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// lab is a network in memory with its nodes.
type lab struct {
	tb  testing.TB
	net *overlaytest.Net
}

// node is one Network, and the workloads' end of its device.
type node struct {
	*Network
	lab    *lab
	wire   tap.Device // what workloads write and read
	device tap.Device // what the Network has
	ended  chan error
	stop   context.CancelFunc
	buffer *tap.Batch
}

func newLab(tb testing.TB, c overlaytest.Config) *lab {
	return &lab{tb: tb, net: overlaytest.NewNet(c)}
}

// node makes a node that is not running. change may change its Config.
func (l *lab) node(change func(*Config)) *node {
	l.tb.Helper()
	id, err := overlay.NewIdentity()
	require.NoError(l.tb, err)
	return l.nodeOf(id, change)
}

func (l *lab) nodeOf(id *overlay.Identity, change func(*Config)) *node {
	l.tb.Helper()
	m := &node{lab: l, ended: make(chan error, 1), buffer: tap.NewBatch(128, 4*tap.MaxFrame)}
	m.device, m.wire = taptest.PipeConfig{Caps: tap.Caps{Offload: true, USO: true}}.Open()
	c := Config{
		Name:      "test",
		Identity:  id,
		Transport: l.net.Opener(),
		Device:    func(context.Context) (tap.Device, error) { return m.device, nil },
	}
	if change != nil {
		change(&c)
	}
	var err error
	m.Network, err = New(c)
	require.NoError(l.tb, err)
	return m
}

// run starts the node; the test's end stops it.
func (m *node) run() {
	m.lab.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() { m.ended <- m.Run(ctx) }()
	m.lab.tb.Cleanup(func() { m.shut() })
	require.NoError(m.lab.tb, m.Ready(ctx))
}

// shut stops the node and returns what Run did.
func (m *node) shut() error {
	m.stop()
	err := <-m.ended
	m.ended <- err // for the next who asks
	_ = m.wire.Close()
	return err
}

// newPair makes two running nodes that are linked and have one endpoint each:
// "a" and "b", 10.0.0.1 and 10.0.0.2.
func newPair(tb testing.TB, c overlaytest.Config, change func(*Config)) (a, b *node) {
	tb.Helper()
	l := newLab(tb, c)
	a, b = l.node(change), l.node(change)
	l.mesh(a, b)
	for _, m := range []*node{a, b} {
		m.run()
	}
	waitLinked(tb, a, b)
	return a, b
}

// mesh adds each node's endpoint, and every node to every other as a peer.
func (l *lab) mesh(nodes ...*node) {
	for i, m := range nodes {
		require.NoError(l.tb, m.Attach(context.Background(), testEndpoint(i)))
		for _, o := range nodes {
			if o != m {
				require.NoError(l.tb, m.AddPeer(o.ID()))
			}
		}
	}
}

func testEndpoint(i int) Endpoint {
	return Endpoint{Name: string(rune('a' + i)), Ofport: uint32(i + 1), MAC: testMAC(i), IPs: []netip.Addr{testIP(i)}, Tag: "tag-" + string(rune('a'+i))}
}

func testMAC(i int) tap.MAC { return tap.MAC{2, 0, 0, 0, 0, byte(i + 1)} }

func testIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}) }

// waitLinked waits until every node has a link to, and an endpoint of, every other.
func waitLinked(tb testing.TB, nodes ...*node) {
	tb.Helper()
	for _, m := range nodes {
		eventually(tb, func() bool {
			peers := m.Peers()
			return len(peers) == len(nodes)-1 && !slices.ContainsFunc(peers, func(p PeerStatus) bool {
				return p.State != PeerLinked || len(p.Endpoints) == 0
			})
		})
	}
}

// eventually polls. In a synctest bubble its time is not real.
func eventually(tb testing.TB, ok func() bool) {
	tb.Helper()
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for end := time.After(40 * time.Second); !ok(); {
		select {
		case <-t.C:
		case <-end:
			tb.Fatal("it never came to pass")
		}
	}
}

// send writes frames as workloads do.
func (m *node) send(frames ...[]byte) {
	m.lab.tb.Helper()
	require.NoError(m.lab.tb, m.wire.WriteBatch(batch(frames...)))
}

func batch(frames ...[]byte) *tap.Batch {
	b := tap.NewBatch(len(frames), len(frames)*2048)
	for _, f := range frames {
		b.Append(f, tap.Offload{})
	}
	return b
}

// expect reads exactly these frames, and lets who wrote them count them: in a bubble only.
func (m *node) expect(frames ...[]byte) {
	m.lab.tb.Helper()
	stuck := time.AfterFunc(30*time.Second, func() { _ = m.wire.Close() })
	defer stuck.Stop()
	for len(frames) > 0 {
		require.NoError(m.lab.tb, m.wire.ReadBatch(m.buffer), "%d frames missing", len(frames))
		for i := range m.buffer.Len() {
			require.NotEmpty(m.lab.tb, frames, "a frame too many: %x", m.buffer.Frame(i))
			require.Equal(m.lab.tb, frames[0], m.buffer.Frame(i))
			frames = frames[1:]
		}
	}
	synctest.Wait()
}

// ethernet makes a frame of a local experimental EtherType (IEEE 802, 88b5).
func ethernet(dst, src tap.MAC, text string) []byte {
	f := append(append(append([]byte{}, dst[:]...), src[:]...), 0x88, 0xb5)
	return append(f, text...)
}

// TCP flags of tcpFrame.
const (
	syn = 0x02
	ack = 0x10
)

// tcpFrame makes a TCP segment from endpoint i to endpoint j.
func tcpFrame(i, j int, sport, dport uint16, flags byte, payload int) []byte {
	f := make([]byte, 54+payload)
	dst, src := testMAC(j), testMAC(i)
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12], f[13] = 8, 0
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	s, d := testIP(i).As4(), testIP(j).As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	seg.PutIPv4Checksum(ip[:20])
	t := ip[20:]
	binary.BigEndian.PutUint16(t, sport)
	binary.BigEndian.PutUint16(t[2:], dport)
	t[12], t[13] = 5<<4, flags
	binary.BigEndian.PutUint16(t[16:], seg.TransportChecksum(testIP(i), testIP(j), 6, t))
	return f
}

func testFlow(i, j int, sport, dport uint16) bypass.Flow {
	return bypass.Flow{Proto: bypass.TCP, Src: netip.AddrPortFrom(testIP(i), sport), Dst: netip.AddrPortFrom(testIP(j), dport)}
}
