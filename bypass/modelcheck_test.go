package bypass_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
)

// What must never be, whatever the schedule.
//
//   - An outbound rule forwards while the peer has no inbound rule for it.
//   - A guest's packet reaches another guest than it was sent to, or reaches it altered.
//   - A guest's packet reaches a host's own stack.
//   - A guest's packet is lost outside of a window that a hard fault announced.
//   - A guest's packet is in clear on the wire without either end's consent, or on a path
//     that has not been as it was proven for too long.
//   - A dead run's rules outlive its lease.
//
// And, at the end of each schedule, when all faults are healed: every flow is bypassed
// again, no port is in use without a flow, and hosts that leave leave nothing.

// sentFrame is a guest's packet whose end is not known yet.
type sentFrame struct {
	at   time.Time
	from *modelNode
	flow bypass.Flow // as sent
}

// atWaking: its switch had just gone on after a stall. Such a switch does first what it
// was told long ago, which may open a gate for a moment; what it must do now comes then.
func (f sentFrame) atWaking() bool {
	if f.from == nil {
		return false
	}
	d := f.at.Sub(f.from.unstalled)
	return d >= 0 && d < 10*time.Millisecond+f.from.w.opts.stale // its cache may keep what it did
}

// window is when packets of a node may be lost, of one family or (0) of both.
type window struct {
	from, to time.Time
	family   bypass.Family
}

// trouble is what the schedule has done wrong, with what may follow from it.
type trouble struct {
	w      *world
	losses [2][]window                // by sender
	good   [bypass.IPv6 + 1]time.Time // last instant at which the wire passed all of it
	bare   [2]time.Time               // until when a host may have no guard at all
}

func (t *trouble) init(w *world) {
	t.w, t.good[bypass.IPv4], t.good[bypass.IPv6] = w, w.start, w.start
}

// Packets under way when a fault strikes were sent a little before.
const underWay = 500 * time.Millisecond

// excuse lets packets of sender be lost for d from now.
func (t *trouble) excuse(sender *modelNode, d time.Duration) { t.excuseSome(sender, d, 0) }

// excuseSome does so for one family.
func (t *trouble) excuseSome(sender *modelNode, d time.Duration, f bypass.Family) {
	now := time.Now()
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	t.losses[sender.nr] = append(t.losses[sender.nr], window{now.Add(-underWay), now.Add(d), f})
}

// lenience is how much longer than usual a node may take to stop sending: if its switch
// could not be programmed lately, as long as its outbound lease; if it died, too.
func (n *modelNode) lenience(now time.Time) time.Duration {
	d := time.Duration(0)
	if now.Sub(n.impaired) < 15*time.Second && !n.impaired.IsZero() {
		d = modelOut + 3*time.Second
	}
	for _, r := range n.dead {
		if now.Sub(r.at) < modelOut+8*time.Second {
			d = max(d, modelOut+time.Second)
		}
	}
	return d + n.w.opts.stale
}

// excused tells whether a packet may be lost.
func (t *trouble) excused(f sentFrame) bool {
	more := f.from.lenience(f.at)
	return slices.ContainsFunc(t.losses[f.from.nr], func(w window) bool {
		return (w.family == 0 || w.family == familyOf(f.flow)) && !f.at.Before(w.from) && f.at.Before(w.to.Add(more))
	})
}

func familyOf(f bypass.Flow) bypass.Family { return bypass.FamilyOf(f.Src.Addr()) }

const guestText = "guest's own words"

// guestsSend has each guest, more or less, send a packet in each flow.
func (w *world) guestsSend() {
	for i, f := range w.flows {
		for dir, n := range w.nodes {
			if dir == 1 {
				f = f.Reverse()
			}
			if w.quiet[i][dir] || w.rnd.IntN(3) == 0 {
				continue
			}
			node, ws := guestOf(f.Src.Addr())
			far, wd := guestOf(f.Dst.Addr())
			w.mu.Lock()
			w.nextID++
			id := w.nextID
			w.sent[id] = sentFrame{time.Now(), n, f}
			w.mu.Unlock()
			n.sw.Send(n.ofport(ws), bypasstest.Packet{SrcMAC: guestMAC(node, ws), DstMAC: guestMAC(far, wd), Flow: f,
				Flags: bypasstest.FlagACK, Payload: binary.BigEndian.AppendUint64([]byte(guestText), id)}.Frame())
		}
	}
}

// guestFrame finds the packet that a guest sent in a frame.
func (w *world) guestFrame(frame []byte) (bypasstest.Packet, uint64, bool) {
	p, ok := bypasstest.Parse(frame)
	if !ok || len(p.Payload) != len(guestText)+8 || string(p.Payload[:len(guestText)]) != guestText {
		return p, 0, false
	}
	return p, binary.BigEndian.Uint64(p.Payload[len(guestText):]), true
}

// delivered: a guest gets a frame by the bypass.
func (w *world) delivered(n *modelNode, i int, frame []byte) {
	p, id, ok := w.guestFrame(frame)
	w.mu.Lock()
	f, late := w.sent[id], w.late[id]
	delete(w.sent, id)
	w.mu.Unlock()
	if late.from != nil {
		f = late
	}
	switch {
	case late.from != nil && f.at.Before(w.nodes[0].bornAt) && f.at.Before(w.nodes[1].bornAt):
		return // both ends began anew: nobody knows the tuple any more, only chance keeps it apart
	case !ok:
		w.fail("guest %d of node %d got what no guest sent: %+v", i, n.nr, p.Flow)
	case f.from == nil:
		w.fail("packet %d reached a guest twice, or too late", id)
	case f.flow != p.Flow || p.Flow.Dst.Addr() != guestIP(familyOf(f.flow), n.nr, i) || p.DstMAC != guestMAC(n.nr, i):
		w.fail("guest %d of node %d got %v, sent as %v", i, n.nr, p.Flow, f.flow)
	}
	w.mu.Lock()
	w.native[f.flow]++
	w.mu.Unlock()
}

// tapped: a guest's frame goes to the overlay.
func (w *world) tapped(frame []byte) {
	if _, id, ok := w.guestFrame(frame); ok {
		w.mu.Lock()
		delete(w.sent, id)
		w.mu.Unlock()
	}
}

// reachedStack: the host's kernel would answer a guest. (A probe of a peer that does not
// know yet that we left it may.)
func (w *world) reachedStack(n *modelNode, frame []byte) {
	p, id, ok := w.guestFrame(frame)
	w.mu.Lock()
	f, late := w.late[id]
	if !late {
		f = w.sent[id]
	}
	w.mu.Unlock()
	if f.atWaking() {
		return
	}
	if (late || n.peer().diedLately() || n.diedLately()) && (n.member == nil || n.leaving != nil || time.Since(n.bornAt) < modelLease) {
		return // what guarded the host then is gone, and what guards it now is not there yet
	}
	if ok && time.Now().After(w.trouble.bare[n.nr]) {
		w.fail("node %d's own stack got %v", n.nr, p.Flow)
	}
}

// onWire: a frame is on the provider's network, for everybody to read.
func (w *world) onWire(frame []byte) {
	_, id, ok := w.guestFrame(frame)
	if !ok {
		return
	}
	now := time.Now()
	w.mu.Lock()
	f, t := w.sent[id], &w.trouble
	w.mu.Unlock()
	n := f.from
	switch {
	case n == nil:
		return // it was on the wire before
	case f.atWaking():
		return
	}
	more := n.lenience(now)
	told := 2500 * time.Millisecond // until the peer's word, or its silence, has its effect
	if w.opts.lose > 0 {
		told = 7 * time.Second
	}
	own := time.Second
	if n.member == nil {
		own = modelOut + time.Second
	}
	switch {
	case now.Sub(n.allowedAt) > own+more:
		w.fail("in clear without node %d's consent for %v: %v", n.nr, now.Sub(n.allowedAt), f.flow)
	case now.Sub(n.peer().allowedAt) > told+more:
		w.fail("in clear without node %d's consent, the peer's, for %v: %v", n.peer().nr, now.Sub(n.peer().allowedAt), f.flow)
	case now.Sub(t.good[familyOf(f.flow)]) > modelNotice+more:
		w.fail("in clear on a path that has been bad for %v: %v", now.Sub(t.good[familyOf(f.flow)]), f.flow)
	}
}

// diedLately: what it left may still send.
func (n *modelNode) diedLately() bool {
	return slices.ContainsFunc(n.dead, func(d deadRun) bool { return time.Since(d.at) < modelOut+modelNotice })
}

// heldFrame is one that the wire keeps for a while.
type heldFrame struct {
	due   time.Time
	frame []byte
}

// carried is what the wire does to each frame: old and new addresses of next hops are
// those of the other node, at once; and some of the guests' packets take seconds. These
// may be lost, but they must not reach anybody else.
func (w *world) carried(frame []byte) []byte {
	if frame[3] == 9 {
		to := w.nodes[0]
		if frame[11] == 1 {
			to = w.nodes[1]
		}
		copy(frame, to.uplink[:])
	}
	_, id, ok := w.guestFrame(frame)
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.sent[id]
	if !ok || !w.opts.stragglers || f.from == nil || w.holds.IntN(10) > 0 {
		return frame
	}
	w.late[id] = f
	delete(w.sent, id)
	due := time.Now().Add(time.Second + time.Duration(w.holds.IntN(6000))*time.Millisecond)
	w.held = append(w.held, heldFrame{due, bytes.Clone(frame)})
	return nil
}

// release lets go what has been held long enough.
func (w *world) release() {
	w.mu.Lock()
	var due [][]byte
	w.held = slices.DeleteFunc(w.held, func(h heldFrame) bool {
		over := !h.due.After(time.Now())
		if over {
			due = append(due, h.frame)
		}
		return over
	})
	w.mu.Unlock()
	for _, f := range due {
		w.wire.Send(f)
	}
}

// check looks for violations that are to be seen in the switches, and for packets that
// never came.
func (w *world) check() {
	now := time.Now()
	for _, f := range w.families {
		if _, blocked := w.blocks[f]; !blocked {
			w.trouble.good[f] = now
		}
	}
	for _, n := range w.nodes {
		if n.allow {
			n.allowedAt = now
		}
		if n.stalled || n.down || n.failing {
			n.impaired = now
		}
	}
	for _, n := range w.nodes {
		w.checkOutbounds(n)
		for _, d := range n.dead {
			if now.Sub(later(d.at, n.unstalled)) <= modelLease+1500*time.Millisecond || n.stalled {
				continue
			}
			for _, r := range n.sw.Rules() {
				if r.Epoch == d.epoch {
					w.fail("node %d: %v of a run that died %v ago", n.nr, r.Rule, now.Sub(d.at))
				}
			}
		}
	}
	w.mu.Lock()
	var lost []sentFrame
	for id, f := range w.sent {
		if now.Sub(f.at) > 2*time.Second {
			delete(w.sent, id)
			if !w.trouble.excused(f) && !f.atWaking() {
				lost = append(lost, f)
			}
		}
	}
	w.mu.Unlock()
	for _, f := range lost {
		w.fail("lost: a packet of node %d, sent at %.3f: %v", f.from.nr, f.at.Sub(w.start).Seconds(), f.flow)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// checkOutbounds: whoever sends is received.
func (w *world) checkOutbounds(n *modelNode) {
	var live []bypass.Rule // of the peer
	for _, r := range n.sw.Live() {
		if r.Direction != bypass.Outbound {
			continue
		}
		if live == nil {
			live = n.peer().sw.Live()
		}
		taken := slices.ContainsFunc(live, func(in bypass.Rule) bool {
			return in.Direction == bypass.Inbound && in.Local == r.Remote && in.Remote == r.Local && in.Flow == r.Flow.Reverse()
		})
		if !taken && !w.trouble.excused(sentFrame{time.Now(), n, r.Flow}) {
			w.fail("node %d sends %v by %v > %v, and the peer has no inbound for it", n.nr, r.Flow, r.Local, r.Remote)
		}
	}
}
