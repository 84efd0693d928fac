package vias

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// refreshTime is how often a link is asked for its path.
const refreshTime = 500 * time.Millisecond

// conn is one link to a peer and the control session on it.
type conn struct {
	network *Network
	peer    *peer
	link    overlay.Link
	port    *pump.Port
	wake    chan struct{} // something was queued

	sending sync.Mutex // serialises flush: what Output gave is sent in that order
	batch   *tap.Batch // guarded by sending
	shown   []byte     // our credential as the peer saw it last; keepTime's own

	mu      sync.Mutex // guards what follows
	session *control.Session
	up      bool // both Hellos are there

	announced uint64 // version of what the peer was told; guarded by the announcer's mu
}

// errReplaced ends a link that the peer replaced by a newer one.
var errReplaced = errors.New("the peer made a new link")

// serve uses link until it ends. next is the link that replaced it, if one did;
// linked tells whether both Hellos were exchanged.
func (p *peer) serve(ctx context.Context, r *running, link overlay.Link) (next overlay.Link, linked bool, err error) {
	c, err := p.newConn(link, r.device.MTU())
	if err != nil {
		_ = link.Close()
		return nil, false, err
	}
	p.mu.Lock()
	p.conn = c
	p.mu.Unlock()
	if p.removed() { // RemovePeer may have looked before conn was set
		c.close()
	}

	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, c.close) // ends RecvBatch
	g.Go(func() error { return c.receive(r) })
	g.Go(func() error { return c.keepTime(gctx) })
	g.Go(func() error {
		select {
		case next = <-p.offered:
			return errReplaced
		case <-gctx.Done():
			return nil
		}
	})
	err = g.Wait()
	stop()
	c.close()

	p.mu.Lock()
	p.conn = nil
	p.mu.Unlock()
	if linked = c.isUp(); linked {
		c.down(r, err)
		if errors.Is(err, overlay.ErrNotAdmitted) {
			p.expel(r, err)
		}
	} else if refusal(err) {
		p.network.log.Warn("peer refused", "peer", p.id.Short(), "err", err)
	}
	return next, linked, err
}

func (p *peer) newConn(link overlay.Link, mtu int) (*conn, error) {
	c := &conn{
		network: p.network, peer: p, link: link, port: pump.NewPort(link),
		wake:  make(chan struct{}, 1),
		batch: tap.NewBatch(16, 16*1536),
	}
	s, err := control.New(control.Config{
		ID:      rand.Uint64() | 1, // not 0; a link's datagrams are authenticated, so it need not be secret
		Network: p.network.config.Name,
		MTU:     mtu,
		LinkMTU: link.Path().MTU,
	}, time.Now())
	c.session = s
	return c, err
}

// close ends the link; the goroutines of serve follow.
func (c *conn) close() { _ = c.link.Close() }

func (c *conn) isUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up
}

// receive takes what the peer sends.
func (c *conn) receive(r *running) error {
	in := pump.NewIn(pump.InConfig{
		Shared:  c.network.shared,
		Port:    c.port,
		Writer:  r.writer,
		Control: func(d []byte) error { return c.input(d, r) },
		Flush:   c.flush,
	})
	return in.Run()
}

// input takes one control datagram.
func (c *conn) input(datagram []byte, r *running) error {
	c.mu.Lock()
	messages, err := c.session.Input(datagram, time.Now())
	rises := !c.up && c.session.Established()
	c.up = c.up || rises
	c.mu.Unlock()
	if rises {
		c.rise(r)
	}
	if err != nil {
		_ = c.flush() // lets the peer know why
	}
	for _, m := range messages {
		if err := c.message(m, r); err != nil {
			return err
		}
	}
	return err
}

func (c *conn) message(m control.Message, r *running) error {
	switch m.Channel {
	case control.ChannelAnnounce:
		a, err := control.DecodeAnnouncement(m.Body)
		if err != nil {
			return err
		}
		change, err := c.network.shared.Stations.Announce(c.peer.id, a)
		if err != nil {
			return fmt.Errorf("%w: %w", control.ErrProtocol, err)
		}
		c.network.stationsChanged(change)
	case control.ChannelBypass:
		if r.member != nil {
			r.member.Receive(c.peer.id, m.Body)
		}
	case control.ChannelCredential:
		c.credential(m.Body)
	}
	return nil
}

// peerMTU is that of the peer's device, as its Hello says.
func (c *conn) peerMTU() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(min(c.session.Hello().MTU, math.MaxUint16))
}

// rise is called once, when both Hellos are there.
func (c *conn) rise(r *running) {
	n := c.network
	c.peer.met.Store(true)
	n.stationsChanged(n.shared.Stations.SetLinked(c.peer.id, true))
	c.peer.note(PeerLinked, nil, time.Time{})
	c.port.SetReady(c.peerMTU())
	n.shared.Ports.Put(c.port)
	if c.peer.removed() { // whose port RemovePeer may just have looked for
		n.shared.Ports.Remove(c.port)
	}
	n.announceAll(c)
	if r.member != nil {
		r.member.LinkUp(c.peer.id)
	}
	n.log.Info("peer up", "peer", c.peer.id.Short(), "path", c.link.Path().Kind)
	n.hub.emit(PeerUp{c.peer.id})
}

// down is called once after rise, when the link has ended.
func (c *conn) down(r *running, err error) {
	n := c.network
	n.shared.Ports.Remove(c.port)
	n.stationsChanged(n.shared.Stations.SetLinked(c.peer.id, false))
	if r.member != nil {
		r.member.LinkDown(c.peer.id)
	}
	n.log.Info("peer down", "peer", c.peer.id.Short(), "err", err)
	n.hub.emit(PeerDown{c.peer.id, err})
}

// keepTime drives the session's timers and sends what others queued.
func (c *conn) keepTime(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	var refresh time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-t.C:
		}
		now := time.Now()
		if !now.Before(refresh) {
			refresh = now.Add(refreshTime)
			c.port.Refresh()
			if err := c.checkAdmission(); err != nil {
				return err
			}
		}
		c.mu.Lock()
		err := c.session.Tick(now)
		c.mu.Unlock()
		if err == nil {
			err = c.flush()
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		next := c.session.Next()
		c.mu.Unlock()
		if next.IsZero() || refresh.Before(next) {
			next = refresh
		}
		t.Reset(time.Until(next))
	}
}

// flush sends what the session has to send.
func (c *conn) flush() error {
	c.sending.Lock()
	defer c.sending.Unlock()
	for {
		c.batch.Reset()
		c.mu.Lock()
		c.session.Output(c.batch, time.Now())
		c.mu.Unlock()
		if c.batch.Len() == 0 {
			return nil
		}
		if err := c.port.Send(c.batch); err != nil {
			return err
		}
	}
}

// queue queues a message; it is sent soon. false: the session is over or its queue
// full.
func (c *conn) queue(ch control.Channel, body []byte) bool {
	c.mu.Lock()
	err := control.ErrStalled
	if c.up {
		err = c.session.Send(ch, body, time.Now())
	}
	c.mu.Unlock()
	if err != nil {
		return false
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

// connOf is the conn of a linked peer, or nil.
func (n *Network) connOf(id overlay.PeerID) *conn {
	n.mu.Lock()
	p := n.peers[id]
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}
