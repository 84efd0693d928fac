package pump

import (
	"time"
	"unique"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/tap"
)

// How often the bypass is asked again for a flow that is still on the overlay.
const (
	askEvery      = time.Second
	askEveryBytes = 256 << 10
)

// Asker is the part of a bypass.Member that decides over flows. No method blocks.
type Asker interface {
	Request(bypass.Flow, bypass.Verdict)
	Status(bypass.Flow) (bypass.Status, bool)
}

// Trigger is what it takes to ask for a bypass. It is used only with Shared.Bypass.
type Trigger struct {
	Network string
	// Policy is the one in force, and a number above 0 that is another for every
	// other policy.
	Policy func() (bypass.Policy, uint64)
	Asker  Asker
	Holds  *flowtable.Holds
	// Held is called after a frame was held. It must not block.
	Held func()
}

// ask decides what is to be done for the bypass of a flow whose packet is o.packet.
// true: the frame was held.
//
// UDP has no opener: both ends count both ways, and the end whose packet reaches the verdict's
// threshold asks, which is the sender if nothing comes back. If both ask at once, the
// transaction settles it.
func (o *Out) ask(e *flowtable.Entry, frame []byte, f tap.Offload, from, to *l2.Station, port *Port) (held bool) {
	state, _ := e.State()
	if state == bypass.Moving && o.packet.SYNACK && e.Opened() == flowtable.OpenedUnknown {
		return o.answer(e, frame, f, from, to)
	}
	if state != bypass.OnOverlay || e.Opened() == flowtable.OpenedThere {
		return false // under way or done; or the peer's to ask, who opened it
	}
	switch v := o.verdict(e, from, to); {
	case !v.Bypass:
		e.SetReason(bypass.ReasonPolicy)
	case port == nil:
		e.SetReason(bypass.ReasonLinkDown)
	case from.Ofport == 0:
		e.SetReason(bypass.ReasonDetached) // the switch does not know it
	case o.early:
		e.SetReason(bypass.ReasonQueued)
	case !v.Due(e.Proto(), e.Packets(), e.Total()-e.Ask.Base):
		e.SetReason(bypass.ReasonThreshold)
	case o.due(e):
		return o.request(e, v, frame, f, from, to)
	}
	return false
}

// verdict asks the policy when it, or what it goes by, is another than last time.
func (o *Out) verdict(e *flowtable.Entry, from, to *l2.Station) bypass.Verdict {
	policy, generation := o.Trigger.Policy()
	a := &e.Ask
	ends := flowtable.Ends{Peer: to.Peer, LocalTag: from.Tag, PeerTag: to.Tag}
	if a.Answer != (unique.Handle[flowtable.Answer]{}) {
		if last := a.Answer.Value(); last.Generation == generation && last.Ends == ends {
			return last.Verdict
		}
	}
	v := policy(bypass.Request{
		Flow: e.Flow(), Network: o.Trigger.Network, Peer: to.Peer,
		LocalTag: from.Tag, PeerTag: to.Tag, Initiator: true,
	})
	a.Answer = unique.Make(flowtable.Answer{Ends: ends, Generation: generation, Verdict: v})
	a.Next = 0
	return v
}

// due limits how often the Member is asked for one flow.
func (o *Out) due(e *flowtable.Entry) bool {
	a, now := &e.Ask, o.now.UnixNano()
	wait := time.Duration(a.Next - now)
	if wait > 0 && wait <= askEvery && e.Total() < a.NextBytes { // longer: the clock was set back
		return false
	}
	a.Next, a.NextBytes = now+int64(askEvery), e.Total()+askEveryBytes
	return true
}

func (o *Out) request(e *flowtable.Entry, v bypass.Verdict, frame []byte, f tap.Offload, from, to *l2.Station) (held bool) {
	if s, known := o.Trigger.Asker.Status(e.Flow()); known && s.State == bypass.OnOverlay && s.RetryAt.After(o.now) {
		return false // it failed recently: nobody would come for a held frame
	}
	// Hold first: the outcome may come before Request returns.
	if o.packet.SYN && v.After == 0 {
		held = o.hold(e, frame, f, v.Hold, from, to)
	}
	o.Trigger.Asker.Request(e.Flow(), v)
	return held
}

// answer holds the answer to a SYN that nobody saw on the overlay: it came over the bypass,
// ahead of the message that opens the way back. A firewall on that way that knows connections
// has seen the SYN, and passes nothing but its answer then.
func (o *Out) answer(e *flowtable.Entry, frame []byte, f tap.Offload, from, to *l2.Station) (held bool) {
	if !o.hold(e, frame, f, bypass.MaxHold, from, to) {
		return false
	}
	if state, _ := e.State(); state == bypass.Moving {
		return true // the outcome comes, or time does
	}
	_, back := o.Trigger.Holds.Take(e.Flow())
	return !back
}

// hold keeps a copy of the frame until its flow's bypass is there or came to nothing, but
// no longer than wait (0 = the default).
func (o *Out) hold(e *flowtable.Entry, frame []byte, f tap.Offload, wait time.Duration, from, to *l2.Station) bool {
	if wait == 0 {
		wait = bypass.DefaultHold
	}
	wait = min(wait, bypass.MaxHold)
	if wait < 0 || f.GSO != tap.GSONone || len(frame) > len(o.scratch) {
		return false
	}
	// A frame with a partial checksum is lost when it is injected into a switch.
	whole := o.scratch[:copy(o.scratch[:], frame)]
	if seg.Complete(whole, f) != nil {
		return false
	}
	h := flowtable.Held{Flow: e.Flow(), Peer: to.Peer, Ofport: from.Ofport, Frame: whole, Due: o.now.Add(wait)}
	if !o.Trigger.Holds.Put(h) {
		return false
	}
	o.Counters.Held.Add(1)
	o.Trigger.Held()
	return true
}
