package bypass

import "time"

// Kill ends the host as kill -9 would: nothing is taken down, nobody is told.
func (h *Host) Kill() {
	_ = h.run.stop()
	h.run, h.used = nil, 0
}

// DropFlow makes the host forget a live flow, rules and all, and tells nobody: as if
// all that was ever said of its end had been lost.
func (m *Member) DropFlow(f Flow) {
	m.post(func() {
		l := m.loop
		e := m.find(f)
		delete(l.byRule, e.t.rule)
		delete(e.peer.txns, e.t.id)
		e.peer.live[e.id.proto]--
		l.ports.free(e.t.tuple.tuple(), time.Now())
		// Another flow keeps the leases.
		l.enqueue(Change{Remove: e.t.rules(e.id, []Direction{Inbound, Outbound})}, func(error) {})
		e.t = txn{}
		l.forget(e)
	})
}

// IsChallenge tells what a control message is.
func IsChallenge(msg []byte) bool {
	c, err := newCodec()
	if err != nil {
		return false
	}
	m, err := c.decode(msg)
	return err == nil && m.Kind == msgChallenge
}
