package sealed

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// carrier is a server in memory that does what it likes with packets.
type carrier struct {
	mu    sync.Mutex
	peers map[overlay.PeerID]chan message
	log   []carried
	// rule returns what is delivered instead of a packet; nil = the packet.
	rule func(carried) []carried
}

type carried struct {
	from, to overlay.PeerID
	packet   []byte
}

func newCarrier() *carrier { return &carrier{peers: map[overlay.PeerID]chan message{}} }

func (c *carrier) setRule(rule func(carried) []carried) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rule = rule
}

// deliver puts a packet into a mailbox.
func (c *carrier) deliver(p carried) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if box := c.peers[p.to]; box != nil {
		box <- message{p.from, bytes.Clone(p.packet)}
	}
}

// seen are the packets of a kind that were sent.
func (c *carrier) seen(kind byte) (all []carried) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.log {
		if p.packet[3] == kind {
			all = append(all, p)
		}
	}
	return all
}

// port is a carrier's end.
type port struct {
	*carrier
	id    overlay.PeerID
	inbox chan message
	done  chan struct{}
	once  sync.Once
}

func (p *port) Send(_ context.Context, to overlay.PeerID, packet []byte) error {
	one := carried{p.id, to, bytes.Clone(packet)}
	p.mu.Lock()
	p.log = append(p.log, one)
	rule := p.rule
	p.mu.Unlock()
	out := []carried{one}
	if rule != nil {
		out = rule(one)
	}
	for _, o := range out {
		p.deliver(o)
	}
	return nil
}

func (p *port) Recv(ctx context.Context) (overlay.PeerID, []byte, error) {
	select {
	case m := <-p.inbox:
		return m.from, m.body, nil
	case <-p.done:
		return overlay.PeerID{}, nil, overlay.ErrClosed
	case <-ctx.Done():
		return overlay.PeerID{}, nil, ctx.Err()
	}
}

func (p *port) Close() error { p.once.Do(func() { close(p.done) }); return nil }

// node is a Signaler over a carrier.
type node struct {
	*Signaler
	id *overlay.Identity
}

func (c *carrier) open(t testing.TB, id *overlay.Identity, config Config) *node {
	t.Helper()
	p := &port{carrier: c, id: id.ID(), inbox: make(chan message, 4096), done: make(chan struct{})}
	c.mu.Lock()
	c.peers[id.ID()] = p.inbox
	c.mu.Unlock()
	s, err := Wrap(p, id, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return &node{s, id}
}

func (c *carrier) node(t testing.TB) *node {
	t.Helper()
	return c.open(t, overlaytest.NewIdentity(t), Config{})
}

func (n *node) ID() overlay.PeerID { return n.id.ID() }

// say sends once and lets all that follows happen.
func (n *node) say(t testing.TB, to *node, msg string) {
	t.Helper()
	require.NoError(t, n.Send(t.Context(), to.ID(), []byte(msg)))
	synctest.Wait()
}

// hears are all messages that came so far.
func (n *node) hears(t testing.TB) (all []string) {
	t.Helper()
	synctest.Wait()
	for len(n.inbox) > 0 {
		_, msg, err := n.Recv(t.Context())
		require.NoError(t, err)
		all = append(all, string(msg))
	}
	return all
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }
