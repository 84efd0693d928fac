package vias

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/viasnet/vias/internal/control"
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

const (
	// refreshTime is how often a link that is used is asked for its path.
	refreshTime = 500 * time.Millisecond
	// restTime is how often one is that is not.
	restTime = 5 * time.Second
)

// conn is one link to a peer and the control session on it.
type conn struct {
	network *Network
	peer    *peer
	link    overlay.Link
	port    *pump.Port

	sending sync.Mutex // serialises flush: what Output gave is sent in that order
	shown   []byte     // our credential as the peer saw it last; watchLinks' own
	idle    idle       // watchLinks' own
	sent    uint64     // frames, when the path was asked for last, which was at looked; watchLinks' own
	looked  time.Time
	ours    bool // it was we who dialled

	mu      sync.Mutex // guards what follows
	session *control.Session
	timer   *time.Timer    // of step, which runs in a goroutine of its own for a moment
	kicked  bool           // step is to run once more, whenever the timer was to
	working sync.WaitGroup // steps, and what closes the link
	up      bool           // both Hellos are there
	cause   error          // why we ended the link
	done    bool           // no more steps

	announced uint64 // version of what the peer was told; guarded by the announcer's mu
}

// errReplaced ends a link that the peer replaced by a newer one.
var errReplaced = errors.New("the peer made a new link")

// serve uses link until it ends. next is the link that replaced it, if one did; linked tells
// whether both Hellos were exchanged. The peer's goroutine receives meanwhile, and is all that a link takes
// here: there may be thousands.
func (p *peer) serve(ctx context.Context, r *running, link overlay.Link) (next overlay.Link, linked bool, err error) {
	c, err := p.newConn(link, r.device.MTU())
	if err != nil {
		_ = link.Close()
		return nil, false, err
	}
	c.start(ctx)
	err = c.receiver(r).Run()
	next, err = c.over(err)
	return next, c.settle(r, err), err
}

// start shows c to others, and says Hello.
func (c *conn) start(ctx context.Context) {
	p := c.peer
	p.mu.Lock()
	p.conn = c
	late := len(p.offered) > 0 // it came before there was a conn to end
	p.mu.Unlock()
	switch {
	case ctx.Err() != nil: // who ends peers may have looked before conn was set
		c.end(nil)
	case late:
		c.end(errReplaced)
	}
	c.kick()
}

// over stops what else works for c. It returns the link that replaced c's, and what this one ended for:
// our own reason, or what receiving failed with.
func (c *conn) over(received error) (next overlay.Link, err error) {
	p := c.peer
	c.close()
	p.mu.Lock()
	p.conn = nil
	select {
	case next = <-p.offered:
	default:
	}
	p.mu.Unlock()
	c.mu.Lock()
	c.done = true
	c.timer.Stop()
	if err = c.cause; err == nil {
		err = received
	}
	c.mu.Unlock()
	c.working.Wait()
	if next != nil {
		err = errReplaced
	}
	return next, err
}

// settle is when the link has ended because of err; it tells whether both Hellos were exchanged.
func (c *conn) settle(r *running, err error) (linked bool) {
	p := c.peer
	if linked = c.isUp(); linked {
		c.down(r, err)
		if errors.Is(err, overlay.ErrNotAdmitted) {
			p.expel(r, err)
		}
	} else if refusal(err) {
		p.network.log.Warn("peer refused", "peer", p.id.Short(), "err", err)
	}
	return linked
}

func (p *peer) newConn(link overlay.Link, mtu int) (*conn, error) {
	c := &conn{
		network: p.network, peer: p, link: link, port: pump.NewPort(link), ours: p.ours,
	}
	c.timer = time.AfterFunc(time.Hour, c.step) // see kick
	c.timer.Stop()
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

// receiver is who takes what the peer sends.
func (c *conn) receiver(r *running) *pump.In {
	return pump.NewIn(pump.InConfig{
		Shared:  c.network.shared,
		Port:    c.port,
		Writer:  r.writer(c.peer.id),
		Control: func(d []byte) error { return c.input(d, r) },
		Flush:   c.flush,
	})
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
		c.network.finder.guard(c.peer.id, a.Add)
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
	c.peer.failedNow(time.Time{})
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

// kick has step run now.
func (c *conn) kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		c.kicked = true
		c.timer.Reset(0)
	}
}

// step drives the session's timers and sends what others queued. It is called by the timer, which it sets
// for what comes next.
func (c *conn) step() {
	c.mu.Lock()
	if c.done {
		c.mu.Unlock()
		return
	}
	c.working.Add(1)
	defer c.working.Done()
	c.kicked = false
	err := c.session.Tick(time.Now())
	c.mu.Unlock()
	if err == nil {
		err = c.flush()
	}
	if err != nil {
		c.end(err)
		return
	}
	c.schedule()
}

// schedule sets the timer for what the session has to do next, unless it is to run at once.
func (c *conn) schedule() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if due := c.session.Next(); !c.done && !c.kicked && !due.IsZero() {
		c.timer.Reset(time.Until(due))
	}
}

// end ends the link because of err; nil: it was none's fault. It does not wait for that, as those who
// call it look after other links too.
func (c *conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = err
	}
	if !c.done {
		c.working.Go(c.close)
	}
}

// watchLinks looks after what links have in common: their paths, who is admitted, whether somebody
// uses them. It is one goroutine for all, at one moment: a thousand links are one wake-up.
func (n *Network) watchLinks(ctx context.Context) error {
	tick := time.NewTicker(refreshTime)
	defer tick.Stop()
	var conns []*conn
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			conns = n.connsInto(conns[:0])
			for _, c := range conns {
				if err := c.look(now); err != nil {
					c.end(err)
				}
			}
			clear(conns)
		}
	}
}

// connsInto appends all conns to to.
func (n *Network) connsInto(to []*conn) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		p.mu.Lock()
		if p.conn != nil {
			to = append(to, p.conn)
		}
		p.mu.Unlock()
	}
	return to
}

// look returns why the link is to end; nil: it is not.
func (c *conn) look(now time.Time) error {
	if used := c.port.Out.Packets(); used != c.sent || now.Sub(c.looked) >= restTime {
		c.sent, c.looked = used, now
		c.port.Refresh()
	}
	return errors.Join(c.checkAdmission(), c.checkIdle(now))
}

// flush sends what the session has to send.
func (c *conn) flush() error {
	c.sending.Lock()
	defer c.sending.Unlock()
	b := c.network.messages.Get().(*tap.Batch)
	defer c.network.messages.Put(b)
	for {
		b.Reset()
		c.mu.Lock()
		c.session.Output(b, time.Now())
		b.SetUrgent() // or a flood of frames would end the session
		c.mu.Unlock()
		if b.Len() == 0 {
			return nil
		}
		if err := c.port.Send(b); err != nil {
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
	c.kick()
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
