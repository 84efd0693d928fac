package ofctltest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// packetInLimit is how many packet-ins may wait for one watcher; more are lost.
const packetInLimit = 1024

// Conn is one connection to a Switch. It is lost for good by Disconnect, Restart
// and Close of either; the switch keeps what was programmed.
type Conn struct {
	sw   *Switch
	done chan struct{} // closed when the connection is lost

	// Switch.mu guards the rest.
	lost     bool
	watchers map[*watcher]struct{}
}

var _ ofctl.Switch = (*Conn)(nil)

// watcher is one call of Watch: a queue between the switch and f.
type watcher struct {
	wake chan struct{} // holds one when queue may have grown

	mu        sync.Mutex
	queue     []ofctl.Event
	packetIns int // in queue
}

// Connect makes a new connection. On a closed Switch it is lost from the start.
func (s *Switch) Connect() *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connectLocked()
}

func (s *Switch) connectLocked() *Conn {
	c := &Conn{sw: s, done: make(chan struct{}), watchers: make(map[*watcher]struct{})}
	if s.closed {
		c.loseLocked()
		return c
	}
	s.conns[c] = struct{}{}
	return c
}

// loseLocked ends the connection; a second time does nothing.
func (c *Conn) loseLocked() {
	if c.lost {
		return
	}
	c.lost = true
	delete(c.sw.conns, c)
	close(c.done)
}

// eventLocked queues ev for every watcher of every connection.
func (s *Switch) eventLocked(ev ofctl.Event) { s.eventButLocked(ev, nil) }

// eventButLocked is eventLocked for all connections but one.
func (s *Switch) eventButLocked(ev ofctl.Event, but *Conn) {
	for c := range s.conns {
		if c == but {
			continue
		}
		for w := range c.watchers {
			w.push(ev)
		}
	}
}

func (w *watcher) push(ev ofctl.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := ev.(ofctl.PacketIn); ok {
		if w.packetIns >= packetInLimit {
			return
		}
		w.packetIns++
	}
	w.queue = append(w.queue, ev)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) drain() []ofctl.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue, w.packetIns = nil, 0
	return q
}

// Features is what Config said.
func (c *Conn) Features() ofctl.Features {
	all := ofctl.CapBundle | ofctl.CapFragMatch | ofctl.CapPortMask | ofctl.CapTTLMatch | ofctl.CapTether | ofctl.CapMeter
	return ofctl.Features{
		DatapathID: c.sw.cfg.DatapathID, Tables: numTables, Capabilities: all &^ c.sw.cfg.Lacks,
	}
}

// Apply executes mods atomically. A call that ctx ends while the switch is stalled
// may still take effect, as ErrUnconfirmed says.
func (c *Conn) Apply(ctx context.Context, mods []ofctl.Mod) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ofctltest: apply: %w", err)
	}
	if err := ofctl.CheckMods(mods); err != nil {
		return fmt.Errorf("ofctltest: apply: %w", err)
	}
	job := c.sw.submit(c, mods)
	select {
	case err := <-job.result:
		return err
	default:
	}
	select {
	case err := <-job.result:
		return err
	case <-c.done:
		return fmt.Errorf("ofctltest: apply: %w", ofctl.ErrUnconfirmed)
	case <-ctx.Done():
		return fmt.Errorf("ofctltest: apply: %w: %w", ofctl.ErrUnconfirmed, ctx.Err())
	}
}

// use runs f under the switch's lock, if the connection is there.
func (c *Conn) use(ctx context.Context, what string, f func()) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ofctltest: %s: %w", what, err)
	}
	c.sw.mu.Lock()
	defer c.sw.mu.Unlock()
	if c.lost {
		return fmt.Errorf("ofctltest: %s: %w", what, ofctl.ErrClosed)
	}
	f()
	return nil
}

// Flows dumps flows; the caller owns the result.
func (c *Conn) Flows(ctx context.Context, filter ofctl.FlowFilter) (stats []ofctl.FlowStat, err error) {
	var refused *ofctl.SwitchError
	err = c.use(ctx, "flows", func() {
		if refused = c.sw.checkMatch(filter.Match); refused == nil {
			stats = c.sw.statsLocked(filter)
		}
	})
	if err == nil && refused != nil {
		return nil, refused
	}
	return stats, err
}

// Aggregate is the sum over what Flows would dump.
func (c *Conn) Aggregate(ctx context.Context, filter ofctl.FlowFilter) (sum ofctl.Aggregate, err error) {
	stats, err := c.Flows(ctx, filter)
	for _, s := range stats {
		sum.Packets += s.Packets
		sum.Bytes += s.Bytes
	}
	sum.Flows = uint32(len(stats))
	return sum, err
}

// Groups dumps groups in rising order of their IDs; the caller owns the result.
func (c *Conn) Groups(ctx context.Context) (groups []ofctl.Group, err error) {
	err = c.use(ctx, "groups", func() { groups = c.sw.groupsLocked() })
	return groups, err
}

// Ports lists ports in rising order of their numbers, LOCAL last.
func (c *Conn) Ports(ctx context.Context) (ports []ofctl.Port, err error) {
	err = c.use(ctx, "ports", func() {
		for _, no := range c.sw.portNumbersLocked() {
			ports = append(ports, c.sw.ports[no].desc())
		}
	})
	return ports, err
}

// PacketOut acts on the frame before it returns. A refusal is a Refused event of
// this connection, not an error.
func (c *Conn) PacketOut(ctx context.Context, p ofctl.PacketOut) error {
	if err := c.use(ctx, "packet-out", func() {}); err != nil {
		return err
	}
	refused := c.sw.packetOut(p)
	if refused == nil {
		return nil
	}
	return c.use(ctx, "packet-out", func() {
		for w := range c.watchers {
			w.push(ofctl.Refused{Err: refused})
		}
	})
}

// Watch is as in ofctl.Switch.
func (c *Conn) Watch(ctx context.Context, f func(ofctl.Event)) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	if err := c.use(context.WithoutCancel(ctx), "watch", func() { c.watchers[w] = struct{}{} }); err != nil {
		return err
	}
	defer c.unwatch(w)
	for {
		select {
		case <-w.wake:
			for _, ev := range w.drain() {
				if ctx.Err() != nil {
					return nil
				}
				f(ev)
			}
		case <-ctx.Done():
			return nil
		case <-c.done:
			// What happened before the loss was on its way.
			for _, ev := range w.drain() {
				f(ev)
			}
			return fmt.Errorf("ofctltest: watch: %w", ofctl.ErrClosed)
		}
	}
}

func (c *Conn) unwatch(w *watcher) {
	c.sw.mu.Lock()
	defer c.sw.mu.Unlock()
	delete(c.watchers, w)
}

// Close ends the connection; the switch stays. It returns nil.
func (c *Conn) Close() error {
	c.sw.mu.Lock()
	defer c.sw.mu.Unlock()
	c.loseLocked()
	return nil
}

// statsLocked is a dump. The order is that of tables, falling priorities and
// matches, the same every time.
func (s *Switch) statsLocked(filter ofctl.FlowFilter) []ofctl.FlowStat {
	now := time.Now()
	fs := s.tables.selected(filter)
	slices.SortFunc(fs, compareFlows)
	stats := make([]ofctl.FlowStat, len(fs))
	for i, f := range fs {
		stats[i] = f.stat(now)
	}
	return stats
}

func (s *Switch) groupsLocked() []ofctl.Group {
	groups := make([]ofctl.Group, 0, len(s.tables.groups))
	for _, g := range s.tables.groups {
		groups = append(groups, cloneGroup(g))
	}
	slices.SortFunc(groups, func(a, b ofctl.Group) int { return int(int64(a.ID) - int64(b.ID)) })
	return groups
}
