package bypasstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
)

// conn is a connection to a Switch: a bypass.Datapath. The Switch's mu guards it.
type conn struct {
	s        *Switch
	epoch    uint16
	set      bool // Set has been called: epoch is known
	closed   bool
	done     chan struct{} // closed by Close
	watchers map[*watcher]bool
	missed   []bypass.RuleLost // what went while the connection was lost
}

// watcher is one call of Watch. more is of length 1.
type watcher struct {
	queue []bypass.Event
	more  chan struct{}
}

// Open connects to the switch: it is what HostConfig.Datapath wants. The switch
// need not be up.
func (s *Switch) Open(ctx context.Context) (bypass.Datapath, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &conn{s: s, done: make(chan struct{}), watchers: map[*watcher]bool{}}
	s.conns[c] = true
	return c, nil
}

func errClosed() error { return fmt.Errorf("bypasstest: datapath: %w", net.ErrClosed) }

func (c *conn) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	close(c.done)
	delete(c.s.conns, c)
	return nil
}

func (c *conn) Set(ctx context.Context, b bypass.Base) error {
	if b.Ports == (bypass.PortRange{}) {
		b.Ports = bypass.DefaultPorts
	}
	if err := checkBase(b); err != nil {
		return err
	}
	b.Workloads, b.Hops, b.Guard = slices.Clone(b.Workloads), slices.Clone(b.Hops), slices.Clone(b.Guard)
	return c.change(ctx, func() error {
		s := c.s
		c.epoch, c.set = b.Epoch, true
		s.base, s.baseEnd = b, time.Now().Add(b.Lease)
		if b.Lease == 0 { // the end
			for _, r := range s.sortedRules() {
				s.tables.drop(r)
			}
			clear(s.tables.leases)
			clear(s.tables.outGates)
			clear(s.tables.inGates)
		}
		for _, r := range s.sortedRules() {
			gone := !slices.ContainsFunc(b.Hops, func(h bypass.Hop) bool { return h.ID == r.Hop })
			if r.Direction == bypass.Outbound && gone {
				s.lostLocked(r)
			}
		}
		s.changedLocked()
		return nil
	})
}

func checkBase(b bypass.Base) error {
	switch {
	case !b.Ports.Valid():
		return fmt.Errorf("bypasstest: set: ports %#04x/%#04x are no range", b.Ports.Base, b.Ports.Mask)
	case b.Lease == 0 && len(b.Workloads)+len(b.Hops)+len(b.Guard) == 0:
	case b.Lease < time.Second || b.Lease%time.Second != 0:
		return fmt.Errorf("bypasstest: set: lease of %v is not in whole seconds", b.Lease)
	}
	for _, h := range b.Hops {
		if h.ID == 0 {
			return errors.New("bypasstest: set: a hop has no ID")
		}
	}
	for _, g := range b.Guard {
		if !oneFamily(g.Local, g.Remote) {
			return fmt.Errorf("bypasstest: set: guard %v - %v is not of one family", g.Local, g.Remote)
		}
	}
	return nil
}

// oneFamily tells whether all addresses are there, without zones, and of one family.
func oneFamily(addrs ...netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.Is4() != addrs[0].Is4()
	})
}

func (c *conn) Apply(ctx context.Context, ch bypass.Change) error {
	ch = bypass.Change{Leases: slices.Clone(ch.Leases), Add: slices.Clone(ch.Add), Remove: slices.Clone(ch.Remove), Purge: slices.Clone(ch.Purge)}
	return c.change(ctx, func() error {
		s := c.s
		if err := c.checkLocked(ch); err != nil {
			return err
		}
		now := time.Now()
		for _, l := range ch.Leases {
			s.lease(now, c.epoch, l)
		}
		for _, r := range ch.Add {
			nr := &rule{Rule: r, epoch: c.epoch}
			s.put(nr)
			s.armLocked(nr)
		}
		for _, r := range ch.Remove {
			if old := s.find(c.epoch, r); old != nil {
				s.tables.drop(old)
			}
		}
		for _, p := range ch.Purge {
			if p.Epoch != c.epoch {
				s.purge(p)
			}
		}
		for _, l := range ch.Leases {
			s.tetherLocked(now, peerKey{c.epoch, l.Peer}, l)
		}
		s.changedLocked()
		return nil
	})
}

// checkLocked tells why ch cannot be made.
func (c *conn) checkLocked(ch bypass.Change) error {
	if !c.set && len(ch.Add)+len(ch.Leases) > 0 {
		return errors.New("bypasstest: apply: nothing was Set yet, so there is no epoch")
	}
	for _, l := range ch.Leases {
		switch {
		case l.Peer == 0, l.Peer >= 1<<24, l.Outbound%time.Second != 0, l.Inbound%time.Second != 0:
			return fmt.Errorf("bypasstest: apply: lease %+v is not valid", l)
		case !oneFamily(l.Local, l.Remote):
			return fmt.Errorf("bypasstest: apply: lease %+v: its addresses are not of one family", l)
		}
	}
	for _, r := range ch.Add {
		if err := c.s.checkRule(r); err != nil {
			return fmt.Errorf("bypasstest: apply: rule %d: %w", r.ID, err)
		}
	}
	return nil
}

func (s *Switch) checkRule(r bypass.Rule) error {
	hop := func(h bypass.Hop) bool { return h.ID == r.Hop }
	switch {
	case r.ID == 0:
		return errors.New("it has no ID")
	case r.Flow.Proto != bypass.TCP && r.Flow.Proto != bypass.UDP:
		return fmt.Errorf("it is for %v", r.Flow.Proto)
	case !oneFamily(r.Local.Addr(), r.Remote.Addr()):
		return errors.New("its underlay addresses are not of one family")
	case r.Idle%time.Second != 0 || r.Hard%time.Second != 0 || r.Idle < 0 || r.Hard < 0:
		return errors.New("its time-outs are not in whole seconds")
	case r.Direction == bypass.Listen && r.Hard == 0:
		return errors.New("it listens without an end")
	case r.Direction == bypass.Listen:
		return nil
	case !oneFamily(r.Local.Addr(), r.Flow.Src.Addr(), r.Flow.Dst.Addr()):
		return errors.New("the addresses of its flow and of the underlay are not of one family")
	case r.Ofport == 0 || r.LocalMAC.IsZero() || r.RemoteMAC.IsZero() || r.Peer == 0:
		return errors.New("it lacks a port, a MAC or a peer")
	case r.Direction == bypass.Outbound && !slices.ContainsFunc(s.base.Hops, hop):
		return fmt.Errorf("there is no hop %d", r.Hop)
	}
	return nil
}

func (c *conn) Rules(ctx context.Context) ([]bypass.RuleStat, error) {
	var list []bypass.RuleStat
	err := c.wait(ctx, func() error {
		if err := c.usableLocked(); err != nil {
			return err
		}
		list = c.s.statsLocked(time.Now(), c.s.lag)
		return nil
	})
	if err != nil {
		return nil, err // list may be written yet, when a stalled switch resumes
	}
	return list, nil
}

func (c *conn) usableLocked() error {
	switch {
	case c.closed:
		return errClosed()
	case c.s.down:
		return fmt.Errorf("bypasstest: %w", bypass.ErrSwitchDown)
	}
	return nil
}

func (c *conn) Inject(ctx context.Context, ofport uint32, frame []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.s.mu.Lock()
	err := c.usableLocked()
	c.s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case ofport == 0:
		c.s.wire.transmit(c.s, bytes.Clone(frame))
	default:
		c.s.Send(ofport, frame)
	}
	return nil
}

func (c *conn) Deliver(ctx context.Context, ofport uint32, frame []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.s.mu.Lock()
	err, port := c.usableLocked(), c.s.ports[ofport]
	c.s.mu.Unlock()
	if err == nil {
		call(port.deliver, bytes.Clone(frame))()
	}
	return err
}

// change does f, or what the faults say instead.
func (c *conn) change(ctx context.Context, f func() error) error {
	return c.wait(ctx, func() error { return c.s.makeLocked(c, f) })
}

// wait calls answer, with the lock, now or when a stalled switch resumes.
func (c *conn) wait(ctx context.Context, answer func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.s.mu.Lock()
	if !c.s.stalled || c.usableLocked() != nil {
		defer c.s.mu.Unlock()
		return answer()
	}
	r := &request{answer, make(chan error, 1)}
	c.s.waiting = append(c.s.waiting, r)
	c.s.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("bypasstest: %w: %w", bypass.ErrUnconfirmed, ctx.Err())
	case <-c.done:
		return fmt.Errorf("bypasstest: %w: %w", bypass.ErrUnconfirmed, net.ErrClosed)
	}
}
