package icedtls

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// receiver receives until its link ends.
type receiver struct {
	got chan int // datagrams of each batch
	end chan error
}

func receive(l *link) *receiver {
	r := &receiver{make(chan int, 1<<16), make(chan error, 1)}
	go func() {
		for b := tap.NewBatch(64, 1<<17); ; {
			if err := l.RecvBatch(b); err != nil {
				r.end <- err
				return
			}
			r.got <- b.Len()
		}
	}()
	return r
}

// run sends one of so many datagrams.
func run(t testing.TB, l *link, n int) {
	b := tap.NewBatch(64, 1<<17)
	for range n {
		b.Append(make([]byte, 1000), tap.Offload{})
	}
	require.NoError(t, l.SendBatch(b))
}

// lent sends until r has the turn and waits for more with it. A ping of another link may take it
// back at any time: then it sends again.
func lent(t testing.TB, l, r *link, at *receiver) {
	sealed(t, l, r)
	turns := &r.session.transport.socket.turns
	until(t, "the receiver waits with the turn", func() bool {
		if turns.now.Load() == nil {
			run(t, l, 20)
		}
		return turns.now.Load() == &r.reading && len(at.got) > 0
	})
	for len(at.got) > 0 {
		<-at.got
	}
}

func (r *receiver) want(t testing.TB, n int) {
	for n > 0 {
		select {
		case k := <-r.got:
			n -= k
		case err := <-r.end:
			require.NoError(t, err)
		case <-testContext(t).Done():
			require.Fail(t, "nothing came")
		}
	}
}

// star is links from two transports to one.
type star struct {
	toOne, one, toOther, other *link
	mute                       atomic.Bool // nothing comes to the one any more
}

func newStar(t testing.TB) *star {
	n, s := newTestNet(), &star{}
	c := n.config
	c.drop = func([]byte, netip.AddrPort) bool { return s.mute.Load() }
	at := openTransport(t, Open(n.config), overlaytest.NewIdentity(t), nil)
	s.toOne, s.one = connect(t, openTransport(t, Open(c), overlaytest.NewIdentity(t), nil), at)
	s.toOther, s.other = connect(t, openTransport(t, Open(c), overlaytest.NewIdentity(t), nil), at)
	return s
}

// TestTurn: a receiver that has the turn gets what comes, long and short, and hands over what is
// another link's, after which the turn is the socket's own goroutine's again.
func TestTurn(t *testing.T) {
	s := newStar(t)
	toOne, one, toOther, other := s.toOne, s.one, s.toOther, s.other
	a, b := receive(one), receive(other)
	lent(t, toOne, one, a)
	run(t, toOne, 64)
	a.want(t, 64)
	run(t, toOne, 1)
	a.want(t, 1)
	sealed(t, toOther, other)
	for range 3 * lendAfter { // so it may move to the other
		run(t, toOther, 20)
		run(t, toOther, 1)
	}
	b.want(t, 3*lendAfter*21)
	run(t, toOne, 40)
	a.want(t, 40)
}

// TestQueuedGoOnTogether: packets that came one by one, and wait in the socket, are one batch for who has the turn.
func TestQueuedGoOnTogether(t *testing.T) {
	l, r := linkPair(t, func(c *Config) { c.drop = nil })
	sealed(t, l, r)
	turns := &r.session.transport.socket.turns
	b := tap.NewBatch(64, 1<<17)
	until(t, "a batch of several", func() bool {
		for range lendAfter {
			run(t, l, 1)
		}
		until(t, "r has the turn", func() bool {
			run(t, l, 1)
			return turns.now.Load() == &r.away
		})
		for r.inbox.len() > 0 || r.held != nil {
			require.NoError(t, r.RecvBatch(b))
		}
		for range 2 * maxQueued {
			run(t, l, 1)
		}
		b.Reset()
		return r.readTurn(b) && b.Len() > 1 // false: the turn was taken back meanwhile
	})
	require.LessOrEqual(t, b.Len(), maxQueued)
}

// TestTurnOfWhoDoesNotCome: who has the turn and does not receive stalls nobody.
func TestTurnOfWhoDoesNotCome(t *testing.T) {
	s := newStar(t)
	toOne, one, toOther, other := s.toOne, s.one, s.toOther, s.other
	b := receive(other)
	sealed(t, toOne, one, toOther, other)
	turns := &one.session.transport.socket.turns
	until(t, "one has the turn", func() bool {
		run(t, toOne, 20)
		return turns.now.Load() == &one.away
	})
	run(t, toOther, 20)
	b.want(t, 20)
	require.False(t, one.ended() || other.ended(), "their pings came, too")
}

// TestTurnAndTheAssociation: what comes by the association reaches a receiver that waits with
// the turn.
func TestTurnAndTheAssociation(t *testing.T) {
	s := newStar(t)
	at := receive(s.one)
	lent(t, s.toOne, s.one, at)
	_, err := s.toOne.conn.Write([]byte{recordData, 1, 2, 3})
	require.NoError(t, err)
	at.want(t, 1)
	lent(t, s.toOne, s.one, at)
	s.mute.Store(true)
	d := s.one.session.transport.socket.pool.get()
	d.n = copy(d.data, []byte{recordData, 1, 2, 3})
	s.one.put(d) // as the association's goroutine does, though nothing else comes
	at.want(t, 1)
	s.mute.Store(false)
	run(t, s.toOne, 20)
	at.want(t, 20)
}

// TestTurnOfAnEndedLink: whoever waits with the turn learns that the link ended, and the turn
// goes on.
func TestTurnOfAnEndedLink(t *testing.T) {
	for name, end := range map[string]func(l, r *link){
		"closed":   func(_, r *link) { _ = r.Close() },
		"by peer":  func(l, _ *link) { _ = l.Close() },
		"shut":     func(_, r *link) { _ = r.session.transport.Close() },
		"lost":     func(_, r *link) { r.fail(overlay.ErrLinkLost) },
		"twice":    func(l, r *link) { _, _ = l.Close(), r.Close() },
		"in a row": func(_, r *link) { _, _ = r.Close(), r.session.transport.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStar(t)
			toOne, one, toOther, other := s.toOne, s.one, s.toOther, s.other
			a, b := receive(one), receive(other)
			lent(t, toOne, one, a)
			s.mute.Store(name != "by peer") // so that nothing else wakes it
			end(toOne, one)
			select {
			case err := <-a.end:
				require.Error(t, err)
			case <-testContext(t).Done():
				require.Fail(t, "RecvBatch waits")
			}
			s.mute.Store(false)
			if other.ended() {
				return
			}
			sealed(t, toOther, other)
			run(t, toOther, 20)
			b.want(t, 20)
		})
	}
}
