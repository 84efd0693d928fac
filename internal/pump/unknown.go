package pump

import (
	"sync"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/tap"
)

// Finder finds whom Out does not know, so that unknown destinations need not be flooded. No method
// blocks. What it drops it counts.
type Finder interface {
	// Wait keeps a copy of a frame from a local endpoint to a station that nobody is known
	// to have, or to whose peer there is no link, until it can go (see Out.Release).
	Wait(frame []byte, f tap.Offload, from, to tap.MAC)
	// Ask has the question answered, if it can be.
	Ask(q Question)
}

// GroupRate is how many broadcast and multicast frames a second one endpoint may send to linked peers, after
// twice as many at once, where there is a Finder.
const GroupRate = 100

// discovery is what Out needs besides where there is a Finder.
type discovery struct {
	// mu serialises Batch and Release.
	mu        sync.Mutex
	releasing bool
	groups    *Opens
	answer    *tap.Batch
}

// Batch sends one batch of the device's frames.
func (o *Out) Batch(b *tap.Batch) {
	if o.Finder == nil {
		o.forward(b)
		return
	}
	o.found.mu.Lock()
	defer o.found.mu.Unlock()
	o.forward(b)
}

// Release sends frames that a Finder kept. Those that still cannot go are dropped. Unlike
// Batch it may be called by any goroutine.
func (o *Out) Release(b *tap.Batch) {
	if o.Alone != nil {
		o.Alone.Lock()
		defer o.Alone.Unlock()
	}
	o.found.mu.Lock()
	defer o.found.mu.Unlock()
	o.found.releasing = true
	o.forward(b)
	o.found.releasing = false
}

// unknown takes a frame to a group, or to a unicast address that nobody announced. false: it is to
// be flooded.
func (o *Out) unknown(frame []byte, f tap.Offload, from *l2.Station, to tap.MAC) (taken bool) {
	switch {
	case o.Finder == nil:
		return false
	case !to.IsMulticast() && o.found.releasing:
		o.Counters.Drop(OutUnresolved)
		return true
	case !to.IsMulticast():
		o.Finder.Wait(frame, f, from.MAC, to)
		return true
	case o.question(frame, from):
		return true
	}
	if o.found.groups == nil {
		o.found.groups = NewOpens(GroupRate)
	}
	if ok, _ := o.found.groups.Allow(from.MAC, o.now); !ok {
		o.Counters.Drop(OutBroadcast)
		return true
	}
	return false
}

// unlinked takes a frame to a station to whose peer there is no link.
func (o *Out) unlinked(frame []byte, f tap.Offload, from, to *l2.Station) (taken bool) {
	if o.Finder == nil || o.found.releasing {
		return false
	}
	o.Finder.Wait(frame, f, from.MAC, to.MAC)
	return true
}

// question answers who has an IP address, or has it answered. false: it is to be flooded.
func (o *Out) question(frame []byte, from *l2.Station) (taken bool) {
	q, ok := ParseQuestion(frame)
	if !ok {
		return false
	}
	switch owner := o.view.IP(q.Target); {
	case owner == from:
		return false // it tells others where it is
	case owner != nil && owner.Local():
		return true // the owner heard it, too: the switch's job
	case owner != nil:
		o.reply(q, owner.MAC)
		return true
	case q.Target.Is6() && q.Target.IsLinkLocalUnicast():
		return false // every station has some that nobody lists
	}
	o.Finder.Ask(q)
	return q.From != q.Target // else it tells others, too
}

func (o *Out) reply(q Question, owner tap.MAC) {
	if o.Writer == nil || owner == q.Asker {
		return
	}
	if o.found.answer == nil {
		o.found.answer = tap.NewBatch(1, MaxAnswer)
	}
	q.Answer(o.found.answer, owner)
	o.Writer.Write(o.found.answer)
	o.Counters.Answered.Add(1)
}
