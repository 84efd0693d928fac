//go:build !race

package vias

import (
	"context"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// scaleNodes is how many nodes TestScale has: go test -run TestScale -scale 10000 .
var scaleNodes = flag.Int("scale", 1000, "nodes of TestScale")

// What the simulated nodes do, however many they are.
const (
	scaleSmall    = 100
	scalePartners = 2 // to whom each node talks; as many talk to it, on average
	scaleEvery    = 10 * time.Second
	scaleJoin     = 20 * time.Second // within which all join
	scaleTime     = time.Minute      // in which they talk
	scaleIdle     = 30 * time.Second
	scaleRest     = 45 * time.Second // in which nobody talks, so that links close
	scaleChurn    = 20               // one node of so many leaves and comes back with another identity
)

// crowd is many nodes in memory with one endpoint each, and what they did.
type crowd struct {
	t   *testing.T
	net *overlaytest.Net
	dir *overlaytest.Directory

	mu    sync.Mutex
	nodes []*scaleNode
	ids   []overlay.PeerID // of all there ever were
	first []time.Duration  // of frames to whom there was no link
	sent  int
	lost  int
}

// scaleNode is one node: its device is itself.
type scaleNode struct {
	*Network
	crowd *crowd
	index int
	in    chan []byte // frames of its endpoint
	done  chan struct{}
	stop  context.CancelFunc
	ended chan error

	mu      sync.Mutex
	waiting map[uint64]time.Time // frames that were sent to it and did not arrive yet
}

func (m *scaleNode) ReadBatch(b *tap.Batch) error {
	b.Reset()
	select {
	case f := <-m.in:
		b.Append(f, tap.Offload{})
		return nil
	case <-m.done:
		return tap.ErrClosed
	}
}

// WriteBatch looks which frames arrive: data, or the answer of who has an address.
func (m *scaleNode) WriteBatch(b *tap.Batch) error {
	for i := range b.Len() {
		switch f := b.Frame(i); binary.BigEndian.Uint16(f[12:]) {
		case 0x88b5:
			m.arrived(binary.BigEndian.Uint64(f[14:]))
		case 0x0806:
			if f[21] == 2 {
				m.resolved(tap.MAC(f[22:28]))
			}
		}
	}
	return nil
}

func (m *scaleNode) Caps() tap.Caps { return tap.Caps{} }
func (m *scaleNode) MTU() int       { return 1280 }
func (m *scaleNode) Close() error   { close(m.done); return nil }

func scaleMAC(i int) tap.MAC {
	m := tap.MAC{2, 0x5c}
	binary.BigEndian.PutUint32(m[2:], uint32(i))
	return m
}

func scaleIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

func (c *crowd) start(i int) *scaleNode {
	id, err := overlay.NewIdentity()
	require.NoError(c.t, err)
	m := &scaleNode{crowd: c, index: i, in: make(chan []byte, 64), done: make(chan struct{}), ended: make(chan error, 1), waiting: map[uint64]time.Time{}}
	m.Network, err = New(Config{
		Name: "scale", Identity: id, Transport: c.net.Opener(), Directory: c.dir.Opener(), IdleLink: scaleIdle,
		Device:    func(context.Context) (tap.Device, error) { return m, nil },
		Admission: overlay.AdmitFunc(func(overlay.PeerID) bool { return true }),
	})
	require.NoError(c.t, err)
	require.NoError(c.t, m.Attach(context.Background(), Endpoint{Name: "e", MAC: scaleMAC(i), IPs: []netip.Addr{scaleIP(i)}}))
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() { m.ended <- m.Run(ctx) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids = append(c.ids, id.ID())
	c.nodes[i] = m
	return m
}

func (c *crowd) at(i int) *scaleNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i]
}

// talk has the endpoint talk to its partners, as a guest does: who has the address, then a frame.
func (m *scaleNode) talk(until time.Time, seed uint64) {
	r := rand.New(rand.NewPCG(seed, uint64(m.index)))
	var partners []int
	for len(partners) < scalePartners {
		if p := r.IntN(len(m.crowd.nodes)); p != m.index {
			partners = append(partners, p)
		}
	}
	for {
		select {
		case <-time.After(scaleEvery/2 + rand.N(scaleEvery)):
		case <-m.done:
			return
		}
		if time.Now().After(until) {
			return
		}
		m.in <- arpRequest(scaleMAC(m.index), scaleIP(m.index), scaleIP(partners[r.IntN(len(partners))]))
	}
}

// resolved sends a frame to who has the address; in begins with when, and whether there was a link.
func (m *scaleNode) resolved(mac tap.MAC) {
	c := m.crowd
	to := c.at(int(binary.BigEndian.Uint32(mac[2:])))
	number := uint64(rand.Uint32())<<1 | 1
	if m.shared.Ports.Get(to.ID()) != nil {
		number--
	}
	c.mu.Lock()
	c.sent++
	c.mu.Unlock()
	to.mu.Lock()
	to.waiting[number] = time.Now()
	to.mu.Unlock()
	f := ethernet(mac, scaleMAC(m.index), "")
	select {
	case m.in <- binary.BigEndian.AppendUint64(f, number):
	default:
	}
}

func (m *scaleNode) arrived(number uint64) {
	m.mu.Lock()
	begun, ok := m.waiting[number]
	delete(m.waiting, number)
	m.mu.Unlock()
	if ok && number&1 == 1 {
		m.crowd.mu.Lock()
		m.crowd.first = append(m.crowd.first, time.Since(begun))
		m.crowd.mu.Unlock()
	}
}

func (m *scaleNode) shut() {
	m.stop()
	require.NoError(m.crowd.t, <-m.ended)
	m.crowd.mu.Lock()
	defer m.crowd.mu.Unlock()
	m.crowd.lost += len(m.waiting)
}

// heap is what lives, in bytes, with stacks.
func heap() int {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int(s.HeapAlloc + s.StackInuse)
}

// result is what one crowd cost.
type result struct {
	messages, bytes  float64 // a node: of the directory and of links, frames included
	p50, p99         time.Duration
	links            float64 // ends a node, in the middle
	perNode, perLink int     // bytes
	frames, firsts   int
	lost             float64
	left             int // links that are not closed in the end
}

// simulate runs a crowd.
func simulate(t *testing.T, count int) (out result) {
	c := &crowd{
		t: t, net: overlaytest.NewNet(overlaytest.Config{Delay: 20 * time.Millisecond, Queue: 256}),
		dir: overlaytest.NewDirectory(overlaytest.DirectoryConfig{Delay: 20 * time.Millisecond}), nodes: make([]*scaleNode, count),
	}
	empty := heap()
	for i := range count {
		c.start(i)
		<-time.After(scaleJoin / time.Duration(count))
	}
	<-time.After(time.Second)
	out.perNode = (heap() - empty) / count
	idle, until := heap(), time.Now().Add(scaleTime)
	for _, m := range c.nodes {
		go m.talk(until, 7)
	}
	<-time.After(scaleTime / 2)
	ends := c.links()
	out.links = float64(ends) / float64(count)
	out.perLink = (heap() - idle) / max(ends, 1)
	for i := range count / scaleChurn { // some leave, and come back as somebody else
		old := c.nodes[i*scaleChurn]
		old.shut()
		m := c.start(old.index)
		go m.talk(until, 7)
		<-time.After(scaleTime / 4 / time.Duration(max(count/scaleChurn, 1)))
	}
	<-time.After(time.Until(until) + scaleRest)
	out.left = c.links()
	for _, id := range c.ids {
		n := c.dir.Counts(id)
		out.messages += float64(n.Messages())
		out.bytes += float64(n.Bytes)
	}
	total := c.net.Total()
	out.messages = (out.messages + float64(total.Sent)) / float64(count)
	out.bytes = (out.bytes + float64(total.Bytes)) / float64(count)
	var wg sync.WaitGroup
	for _, m := range c.nodes {
		wg.Go(m.shut)
	}
	wg.Wait()
	slices.Sort(c.first)
	require.NotEmpty(t, c.first)
	out.p50, out.p99 = c.first[len(c.first)/2], c.first[len(c.first)*99/100]
	out.frames, out.firsts, out.lost = c.sent, len(c.first), float64(c.lost)/float64(c.sent)
	return out
}

// links are all ends of links.
func (c *crowd) links() (ends int) {
	for _, m := range c.nodes {
		ends += len(m.shared.Ports.List())
	}
	return ends
}

// TestScale: what a node sends and is sent does not depend on how many there are, and first frames
// are there soon, while nodes join, leave and come back, and links come and go. All is
// virtual: the time, the links and the directory.
func TestScale(t *testing.T) {
	var small, large result
	for _, s := range []struct {
		count int
		out   *result
	}{{scaleSmall, &small}, {*scaleNodes, &large}} {
		begun := time.Now()
		synctest.Test(t, func(t *testing.T) { *s.out = simulate(t, s.count) })
		r := s.out
		t.Logf("%d nodes, %.1f s: a node %.0f messages, %.0f bytes, %.1f link ends; %d frames, %d of them first ones: p50 %v, p99 %v; lost %.2f %%; idle node %d KB, link end %d KB",
			s.count, time.Since(begun).Seconds(), r.messages, r.bytes, r.links, r.frames, r.firsts, r.p50, r.p99, 100*r.lost, r.perNode>>10, r.perLink>>10)
		require.LessOrEqual(t, r.p99, 2*time.Second)
		require.LessOrEqual(t, r.lost, 0.01)
		require.Zero(t, r.left, "idle links are closed")
		require.Greater(t, r.links, 1.0)
		require.Less(t, r.perNode, 600<<10)
		require.Less(t, r.perLink, 600<<10)
	}
	require.LessOrEqual(t, large.messages, 1.3*small.messages)
	require.LessOrEqual(t, large.bytes, 1.3*small.bytes)
}
