package bypass

import "time"

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
