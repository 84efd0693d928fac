package icedtls

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

func (s *session) generationNumber() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.number
}

// latest is the generation that was begun last.
func (m *mender) latest() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.number
}

// stream sends numbers from l to r, so many each millisecond, until the function that it returns is called, which waits
// for the last and tells how many were sent; got counts what came: another path's may come after the last.
func stream(t *testing.T, l, r *link, each int) func() (sent uint64, got *atomic.Uint64) {
	var highest atomic.Uint64
	got := &atomic.Uint64{}
	go func() {
		b := tap.NewBatch(64, 1<<16)
		for r.RecvBatch(b) == nil {
			for i := range b.Len() {
				f := b.Frame(i)
				got.Add(1)
				highest.Store(max(highest.Load(), binary.BigEndian.Uint64(f[len(f)-8:])))
			}
		}
	}()
	stop, total := make(chan struct{}), make(chan uint64, 1)
	go func() { total <- numbers(t, l, each, stop) }()
	return func() (uint64, *atomic.Uint64) {
		close(stop)
		sent := <-total
		require.NotZero(t, sent, "the link ended")
		until(t, "the last came", func() bool { return highest.Load() == sent })
		return sent, got
	}
}

// TestRestart: both ends change over to another generation, whichever asked, under traffic,
// and nothing is lost.
func TestRestart(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	sealed(t, l, r)
	end := stream(t, l, r, 8)
	for i, ask := range []func(){
		func() { l.mend.begin(kindRestart, 0) },
		func() { r.mend.prompt() },
		func() { l.mend.begin(kindUpgrade, 0) },
	} {
		ask()
		until(t, "both use the next generation", func() bool {
			return l.session.generationNumber() == uint32(i+1) && r.session.generationNumber() == uint32(i+1)
		})
	}
	sent, got := end()
	until(t, "all of it, but for the queues of a busy machine", func() bool { return sent == got.Load()+r.Stats().Drops.Full })
	until(t, "generations that are not used any more are closed", func() bool {
		l.session.mu.Lock()
		defer l.session.mu.Unlock()
		return len(l.session.generations) == 1
	})
	require.NoError(t, l.Close())
	require.NoError(t, r.Close())
	until(t, "nothing is left", func() bool {
		a.socket.mu.RLock()
		defer a.socket.mu.RUnlock()
		return len(a.socket.byUfrag)+len(a.socket.byAddr)+len(a.socket.byCID) == 0
	})
}

// TestClosedWhileRestarting: a Link may be closed at any moment of a restart, and nothing of it is left.
func TestClosedWhileRestarting(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	for i := range 60 {
		l, r := connect(t, a, b)
		l.mend.begin(kindRestart, 0)
		for range i { // another moment each time
			runtime.Gosched()
		}
		require.NoError(t, r.Close())
		require.NoError(t, l.Close())
	}
	for _, transport := range []*Transport{a, b} {
		until(t, "nothing is left", func() bool {
			transport.socket.mu.RLock()
			defer transport.socket.mu.RUnlock()
			return len(transport.socket.byUfrag)+len(transport.socket.byAddr)+len(transport.socket.byCID) == 0
		})
	}
}

// TestSilenceIsMended: a path that is silent is looked for anew, and signalling that is away
// for a while, but not for as long as the Link lives, does no harm.
func TestSilenceIsMended(t *testing.T) {
	n := newTestNet()
	n.config.lossTime = 10 * time.Second
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	sealed(t, l, r)
	n.signals.BlockSignals(a.self, true)
	n.cut(a.self, b.self, true)
	until(t, "an attempt is under way", func() bool {
		return l.mend.latest() > 0
	})
	n.cut(a.self, b.self, false)
	n.signals.BlockSignals(a.self, false)
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
	until(t, "another generation is in use", func() bool {
		return l.session.generationNumber() > 0 && r.session.generationNumber() == l.session.generationNumber()
	})
	exchange(t, l, r, "there again")
}

// TestConsent: a peer that is heard, but answers nothing, is not sent to for long.
func TestConsent(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	n := newTestNet()
	var mute atomic.Uint32 // what is sent to that session is lost
	c := n.config
	c.drop = func(d []byte, _ netip.AddrPort) bool {
		h, ok := record.Parse(d)
		return ok && h.Session == mute.Load() ||
			len(d) > recordCIDStart+cidLength && d[0] == recordWithCID && binary.BigEndian.Uint32(d[recordCIDStart:]) == mute.Load()
	}
	a := openTransport(t, Open(c), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	sealed(t, l, r)
	n.signals.BlockSignals(a.self, true) // or another path would be found
	end := make(chan struct{})
	var talking sync.WaitGroup
	defer talking.Wait()
	defer close(end)
	talking.Go(func() { // all that l hears; r, which hears nothing and has no answer either, is kept from giving up
		p := tap.NewBatch(1, 100)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			r.heard.Store(r.now())
			r.asked.Store(0)
			p.Reset()
			p.Append([]byte("talk"), tap.Offload{})
			_ = r.SendBatch(p)
		}
	})
	start := time.Now()
	mute.Store(r.session.cid)
	drained := tap.NewBatch(64, 1<<16)
	var err error
	for err == nil {
		err = l.RecvBatch(drained)
	}
	require.ErrorIs(t, err, overlay.ErrLinkLost)
	require.Greater(t, time.Since(start), lossTime, "it was heard all the time")
	require.Less(t, time.Since(start), rttInterval+consentTime+2*time.Second) // rttInterval: until it asks
}

// TestMendRejects: what anybody could send over the signalling changes nothing.
func TestMendRejects(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	c := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	message := func(from *Transport, kind uint8, number uint32) []byte {
		m := offerMessage(from.self, b.self)
		m.Kind, m.Generation, m.Session = kind, number, r.session.id[:]
		if kind == kindPrompt {
			m.Ufrag, m.Pwd, m.Candidates = "", "", nil
		}
		raw, err := from.signer.seal(m)
		require.NoError(t, err)
		return raw
	}
	now := time.Now()
	require.NoError(t, b.signalled(c.self, message(c, kindRestart, 1), now), "a stranger's")
	require.NoError(t, b.signalled(a.self, message(a, kindPrompt, 0), now), "the dialler does not prompt")
	require.NoError(t, b.signalled(a.self, message(a, kindAgain, 1), now), "nor answer")
	require.Zero(t, r.mend.latest())
	e, m, err := b.signer.parse(message(a, kindRestart, 1))
	require.NoError(t, err)
	e.Signature[len(e.Signature)-1] ^= 1
	require.ErrorIs(t, b.mended(e, m), errWrongKey)
	require.Zero(t, r.mend.latest())
	good := message(a, kindRestart, 7)
	require.NoError(t, b.signalled(a.self, good, now))
	require.EqualValues(t, 7, r.mend.latest())
	require.NoError(t, b.signalled(a.self, message(a, kindRestart, 6), now), "an older one")
	require.EqualValues(t, 7, r.mend.latest())
	refused := 0
	for i := range uint32(50) {
		if b.signalled(a.self, message(a, kindRestart, 8+i), now) != nil {
			refused++
		}
	}
	require.Greater(t, refused, 30, "the peer may ask so often")
	exchange(t, l, r, "still there")
	exchange(t, r, l, "and back")
}
