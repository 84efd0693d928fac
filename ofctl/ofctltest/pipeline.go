package ofctltest

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// Bounds of groups and tables that refer to each other, as Open vSwitch's of
// resubmits: how deep, and how many in all for one frame.
const (
	maxDepth   = 64
	maxDetours = maxDepth * maxDepth
)

// delivery is a frame that leaves by a port. It is handed over without the lock.
type delivery struct {
	to    func([]byte)
	frame []byte
}

// run is one frame's way through the tables. Switch.mu is held.
type run struct {
	sw   *Switch
	p    packet
	now  time.Time
	size int // of the frame as it came in: what counters count
	// at is the flow that is being executed; nil in a packet-out.
	at  *flow
	set actionSet
	// depth and detours count groups and returns to the first table.
	depth, detours int
	// dead: the frame's TTL ran out, or a meter dropped it.
	dead bool
	out  []delivery
	// trace, if recording, gets every primitive step, for the cache.
	recording bool
	trace     []step
}

// step is one thing that was done to a frame: what a datapath caches.
type step struct {
	// action is a primitive one (no group, no table), nil for save and restore.
	action ofctl.Action
	// at is the flow that did it; hit counts it.
	at                 *flow
	hit, save, restore bool
	meter              uint32 // the frame goes on if it passes; 0 = none
}

// pipeline takes the frame through the tables from id on (OpenFlow 1.3.5, section
// 5.3). As in Open vSwitch, a miss ends it without an error: what is in the action
// set is still executed.
func (r *run) pipeline(id uint8) {
	for {
		table := &r.sw.tables.flows[id]
		f := table.lookup(&r.p.key)
		table.lookups++
		if f == nil {
			break
		}
		table.matched++
		f.hit(r.size, r.now)
		r.at = f
		r.record(step{at: f, hit: true})
		if r.record(step{meter: f.Meter}); !r.sw.passesLocked(f.Meter, r.size, r.now) {
			r.dead, r.set = true, actionSet{}
			return
		}
		r.apply(f.Apply)
		if r.dead {
			return
		}
		if f.Clear {
			r.set = actionSet{}
		}
		r.set.write(f.Write)
		if m := f.Metadata; m.Mask != 0 {
			old := binary.BigEndian.Uint64(r.p.key[atMetadata:])
			binary.BigEndian.PutUint64(r.p.key[atMetadata:], old&^m.Mask|m.Value)
		}
		if f.Goto == 0 {
			break
		}
		id = f.Goto
	}
}

// finish executes the action set.
func (r *run) finish() {
	set := r.set
	r.set = actionSet{}
	r.apply(set.list())
}

// apply executes a list of actions in order.
func (r *run) apply(as []ofctl.Action) {
	for _, a := range as {
		if r.dead {
			return
		}
		switch a := a.(type) {
		case ofctl.ToGroup:
			r.group(a.ID)
		case ofctl.Output:
			if a.Port == ofctl.PortTable {
				r.table()
				continue
			}
			r.primitive(a)
		default:
			r.primitive(a)
		}
	}
}

// table sends the frame through the tables from the first one on: in a packet-out
// or, as Open vSwitch allows, in a flow.
func (r *run) table() {
	if !r.enter() {
		return
	}
	at := r.at
	r.pipeline(0)
	r.at = at
	r.depth--
}

// enter tells whether one more detour is allowed, and counts it.
func (r *run) enter() bool {
	if r.depth >= maxDepth || r.detours >= maxDetours {
		return false
	}
	r.depth++
	r.detours++
	return true
}

func (r *run) record(s step) {
	if r.recording {
		r.trace = append(r.trace, s)
	}
}

// primitive executes what needs no look into tables or groups.
func (r *run) primitive(a ofctl.Action) {
	r.record(step{action: a, at: r.at})
	switch a := a.(type) {
	case ofctl.SetField:
		r.p.set(a.Field)
	case ofctl.PushVLAN:
		r.p.pushVLAN()
	case ofctl.PopVLAN:
		r.p.popVLAN()
	case ofctl.DecTTL:
		if !r.p.decTTL() {
			r.dead = true
			r.toController(0xffff, reasonInvalidTTL)
		}
	case ofctl.Tether:
		r.sw.tetherLocked(a)
	case ofctl.Output:
		r.output(a)
	}
}

func (r *run) output(a ofctl.Output) {
	in := r.p.inPort()
	switch a.Port {
	case ofctl.PortInPort:
		r.send(in)
	case ofctl.PortNormal:
		r.normal()
	case ofctl.PortFlood, ofctl.PortAll:
		for _, no := range r.sw.portNumbersLocked() {
			if no != in {
				r.send(no)
			}
		}
	case ofctl.PortController:
		r.toController(a.MaxLen, r.reason())
	default:
		// A frame leaves by the port that it came in by only if told so in so many
		// words (section 5.12, OFPP_IN_PORT).
		if a.Port != in {
			r.send(a.Port)
		}
	}
}

// send puts a copy of the frame on a port.
func (r *run) send(no uint32) { r.sendFrame(no, r.p.frame) }

func (r *run) sendFrame(no uint32, frame []byte) {
	p := r.sw.ports[no]
	if p == nil || p.Down || p.NoLink || p.NoForward {
		return
	}
	p.count.TxPackets++
	p.count.TxBytes += uint64(len(frame))
	if p.Output == nil {
		return
	}
	r.out = append(r.out, delivery{to: p.Output, frame: slices.Clone(frame)})
}

// Reasons of a packet-in (OFPR_*).
const (
	reasonNoMatch    = 0
	reasonAction     = 1
	reasonInvalidTTL = 2
)

// reason is why the frame goes to the controller: no match if the flow is the
// table-miss flow (section 5.4).
func (r *run) reason() uint8 {
	if r.at != nil && r.at.Priority == 0 && len(r.at.Match) == 0 {
		return reasonNoMatch
	}
	return reasonAction
}

func (r *run) toController(maxLen uint16, reason uint8) {
	ev := ofctl.PacketIn{InPort: r.p.inPort(), Reason: reason, TotalLen: len(r.p.frame)}
	if r.at != nil {
		ev.Table, ev.Cookie = r.at.Table, r.at.Cookie
	} else {
		ev.Cookie = ^uint64(0)
	}
	ev.Frame = slices.Clone(r.p.frame[:min(len(r.p.frame), int(maxLen))])
	r.sw.eventLocked(ev)
}

// group hands the frame to a group. What buckets do to the frame is not seen after
// the group.
func (r *run) group(id uint32) {
	g, ok := r.sw.tables.groups[id]
	if !ok || !r.enter() {
		return
	}
	defer func() { r.depth-- }()
	switch g.Type {
	case ofctl.GroupAll:
		for _, b := range g.Buckets {
			r.bucket(b)
		}
	case ofctl.GroupSelect:
		if i := r.selectBucket(g.Buckets); i >= 0 {
			r.bucket(g.Buckets[i])
		}
	case ofctl.GroupIndirect:
		r.bucket(g.Buckets[0])
	case ofctl.GroupFastFailover:
		if i := slices.IndexFunc(g.Buckets, func(b ofctl.Bucket) bool { return r.sw.liveLocked(b, 0) }); i >= 0 {
			r.bucket(g.Buckets[i])
		}
	}
}

// bucket executes b's actions, which are an action set (section 5.6.1), on a copy.
func (r *run) bucket(b ofctl.Bucket) {
	saved, dead := r.p, r.dead
	// Both may be written to from here on: the first who does copies.
	saved.owned, r.p.owned = false, false
	r.record(step{save: true})
	var set actionSet
	set.write(b.Actions)
	r.apply(set.list())
	r.p, r.dead = saved, dead
	r.record(step{restore: true})
}

// selectBucket chooses by the frame's addresses and ports and the weights; -1 if
// no bucket has weight.
func (r *run) selectBucket(bs []ofctl.Bucket) int {
	total := 0
	for _, b := range bs {
		total += int(max(b.Weight, 1))
	}
	if total == 0 {
		return -1
	}
	h := fnv.New32a()
	h.Write(r.p.key[atEthSrc:])
	n := int(h.Sum32() % uint32(total))
	for i, b := range bs {
		if n -= int(max(b.Weight, 1)); n < 0 {
			return i
		}
	}
	return -1
}

// liveLocked tells whether a bucket's port is up or its group has a live bucket.
func (s *Switch) liveLocked(b ofctl.Bucket, depth int) bool {
	if b.WatchPort != 0 && b.WatchPort != ofctl.PortAny {
		if p := s.ports[b.WatchPort]; p != nil && !p.Down && !p.NoLink {
			return true
		}
	}
	if b.WatchGroup == 0 || b.WatchGroup == ofctl.GroupAny || depth >= maxDepth {
		return false
	}
	g := s.tables.groups[b.WatchGroup]
	return slices.ContainsFunc(g.Buckets, func(b ofctl.Bucket) bool {
		return g.Type != ofctl.GroupFastFailover || s.liveLocked(b, depth+1)
	})
}
