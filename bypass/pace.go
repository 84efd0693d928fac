package bypass

import (
	"sync/atomic"
	"time"
)

// pace limits what others can make us do: some at once, and then one every so often.
// The zero pace has done nothing yet.
type pace struct{ next time.Time }

// allow tells whether it may be done once more now.
func (p *pace) allow(now time.Time, every time.Duration, burst int) bool {
	next := p.next
	if next.Before(now) {
		next = now
	}
	if next.Sub(now) >= every*time.Duration(burst) {
		return false
	}
	p.next = next.Add(every)
	return true
}

// What one peer can make us do. Peers that keep to the protocol stay far below.
const (
	roundEvery, roundBurst = 500 * time.Millisecond, 10              // rounds of proof
	tellEvery, tellBurst   = time.Second, 3                          // telling which transactions are active
	heedEvery, heedBurst   = alivePause / aliveBurst, 4 * aliveBurst // being told
	logEvery, logBurst     = 10 * time.Second, 5                     // lines about it in the log
	// Three quarters of all flows, and a share of the memory for tuples.
	maxPeerFlows = maxFlows / 4 * 3
	maxTuples    = 1 << 18
	// maxChanges that wait for the switch; no Offer is taken while there are more, so
	// that those that end something never wait for long.
	maxChanges = 1 << 12
)

// maxPending bounds what guests and the network can queue, each. What is over it is
// dropped: a flow asks again, a probe is lost.
const maxPending = 8192

// admit posts a job that others can make us do, unless too many of its sort wait:
// guests' requests never keep the network's probes out.
func (l *loop) admit(box *mailbox, waiting *atomic.Int32, job func()) bool {
	if waiting.Add(1) > maxPending {
		waiting.Add(-1)
		return false
	}
	return box.post(func() { waiting.Add(-1); job() })
}
