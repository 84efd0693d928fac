package ofpath

import (
	"context"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// maxPacketIns bounds what a slow watcher is owed; further packet-ins are dropped,
// other events never are.
const maxPacketIns = 4096

// watcher is one call of Watch. The datapath's mu guards queue and packets.
type watcher struct {
	queue   []bypass.Event
	packets int           // packet-ins in queue
	more    chan struct{} // of length 1
}

// Watch returns nil when ctx ends, and an error that is net.ErrClosed when the
// Datapath is closed.
func (d *datapath) Watch(ctx context.Context, f func(bypass.Event)) error {
	w := &watcher{more: make(chan struct{}, 1)}
	d.mu.Lock()
	d.watchers[w] = true
	if d.sw != nil {
		w.push(bypass.DatapathUp{Fresh: true})
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ctx.Done():
			return closed()
		case <-w.more:
		}
		d.mu.Lock()
		events := w.queue
		w.queue, w.packets = nil, 0
		d.mu.Unlock()
		for _, e := range events {
			if ctx.Err() != nil {
				return nil
			}
			f(e)
		}
	}
}

func (w *watcher) push(e bypass.Event) {
	if _, ok := e.(bypass.PacketIn); ok {
		if w.packets == maxPacketIns {
			return
		}
		w.packets++
	}
	w.queue = append(w.queue, e)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// emitLocked tells all watchers. The frame of a PacketIn is each one's own.
func (d *datapath) emitLocked(e bypass.Event) {
	first := true
	for w := range d.watchers {
		if in, ok := e.(bypass.PacketIn); ok && !first {
			in.Frame = append([]byte(nil), in.Frame...)
			e = in
		}
		first = false
		w.push(e)
	}
}

// event is the switch telling something. It must not block.
func (d *datapath) event(e ofctl.Event) {
	switch e := e.(type) {
	case ofctl.PacketIn:
		d.packetIn(e)
	case ofctl.FlowRemoved:
		d.flowRemoved(e)
	case ofctl.PortStatus:
		select {
		case d.ports <- struct{}{}:
		default:
		}
	case ofctl.Refused:
		d.cfg.Logger.Warn("switch refused", "error", e.Err)
	}
}

// packetIn passes on what our own flows of this epoch sent up; the frames of
// others are not ours to see.
func (d *datapath) packetIn(e ofctl.PacketIn) {
	if !d.cfg.owner().Owns(e.Cookie) {
		return
	}
	in := bypass.PacketIn{Kind: bypass.PacketGuard, Frame: e.Frame}
	switch {
	case e.Table == d.cfg.InboundTable && cookieWhose(e.Cookie) == erring:
		in.Kind = bypass.PacketError
	case e.Table == d.cfg.InboundTable:
		in.Kind = bypass.PacketOrphan
	case e.Table != tableClassify:
		return
	case cookieWhose(e.Cookie) == listening:
		in.Kind = bypass.PacketProbe
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cookieEpoch(e.Cookie) == d.layout.epoch && e.InPort == d.layout.uplink {
		d.emitLocked(in)
	}
}

// flowRemoved tells what became of one of our rules. Removals that we asked for have
// left installed before; those that are in it still are somebody else's doing, or a
// tether's that ran out. A rule that was added again meanwhile is not meant.
func (d *datapath) flowRemoved(e ofctl.FlowRemoved) {
	dir, ok := d.cfg.kindOf(e.Flow).direction()
	if !ok || !d.cfg.owner().Owns(e.Flow.Cookie) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cookieEpoch(e.Flow.Cookie) != d.layout.epoch {
		return
	}
	id, ours := d.installed.owner(keyOf(dir, e.Flow.Match))
	old, _ := d.installed.get(ruleKey{dir, id})
	if !ours || !d.layout.match(&old.matchKey).Equal(e.Flow.Match) || old.since > d.clock(installed(e)) {
		return
	}
	d.installed.drop(old.key())
	switch {
	case e.Reason == ofctl.RemovedIdle && dir == bypass.Outbound:
		d.emitLocked(bypass.RuleIdle{ID: id, Packets: e.Packets, Bytes: e.Bytes})
	case e.Reason == ofctl.RemovedIdle, e.Reason == ofctl.RemovedHard:
	default:
		d.emitLocked(bypass.RuleLost{ID: id, Direction: dir})
	}
}

// grain is how much too long the age of a flow may be: Open vSwitch takes it between two
// clocks of whole milliseconds.
const grain = time.Millisecond

// installed is when a flow that is gone was added, or later: an event may be late.
func installed(e ofctl.FlowRemoved) time.Time {
	age := time.Duration(e.DurationSeconds)*time.Second + time.Duration(e.DurationNanosecs)
	return time.Now().Add(grain - age)
}
