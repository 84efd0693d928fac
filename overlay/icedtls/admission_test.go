package icedtls

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// password is an Admission: who shows the same credential as we do is admitted, and is
// remembered.
type password struct {
	text string

	mu    sync.Mutex
	known map[overlay.PeerID]bool
}

func newPassword(text string) *password {
	return &password{text: text, known: map[overlay.PeerID]bool{}}
}

func (p *password) Credential() []byte { return []byte(p.text) }

func (p *password) Admit(peer overlay.PeerID, credential []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if string(credential) == p.text {
		p.known[peer] = true
	}
	if !p.known[peer] || len(credential) > 0 && string(credential) != p.text {
		return errors.New("the secret reason")
	}
	return nil
}

func (p *password) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.known)
}

// overheard is everything that a peer signalled, and where it sent datagrams.
type overheard struct {
	overlay.Signaler
	mu       *sync.Mutex
	messages *[]*message
	codec    *signer
}

func (o overheard) Send(ctx context.Context, to overlay.PeerID, b []byte) error {
	if _, m, err := o.codec.parse(b); err == nil {
		o.mu.Lock()
		*o.messages = append(*o.messages, m)
		o.mu.Unlock()
	}
	return o.Signaler.Send(ctx, to, b)
}

// witness opens a Transport whose messages it returns.
func (n *testNet) witness(t *testing.T, admission overlay.Admission) (*Transport, func() []*message) {
	t.Helper()
	var mu sync.Mutex
	var all []*message
	c, id := n.config, overlaytest.NewIdentity(t)
	c.Signal = func(ctx context.Context, i *overlay.Identity) (overlay.Signaler, error) {
		s, err := n.config.Signal(ctx, i)
		if err != nil {
			return nil, err
		}
		codec, err := newSigner(i)
		return overheard{s, &mu, &all, codec}, err
	}
	return openTransport(t, n.open(c), id, admission), func() []*message {
		mu.Lock()
		defer mu.Unlock()
		return append([]*message(nil), all...)
	}
}

func kinds(list []*message) (all []uint8) {
	for _, m := range list {
		if len(all) == 0 || all[len(all)-1] != m.Kind {
			all = append(all, m.Kind)
		}
	}
	return all
}

// TestNothingBeforeAdmission: neither end tells the other where it is, nor anything else
// but its credential, before it admits it; and nothing at all once it does not.
func TestNothingBeforeAdmission(t *testing.T) {
	n := newTestNet()
	a, fromA := n.witness(t, newPassword("blue"))
	b, fromB := n.witness(t, newPassword("blue"))
	stranger, fromStranger := n.witness(t, newPassword("green"))

	l, r := connect(t, a, b)
	exchange(t, l, r, "members")
	require.Equal(t, []uint8{kindOffer, kindCandidates}, kinds(fromA()))
	require.Equal(t, []uint8{kindAnswer}, kinds(fromB()))
	for _, m := range fromA() {
		require.Equal(t, m.Kind == kindCandidates, len(m.Candidates) > 0)
		require.Equal(t, m.Kind == kindOffer, string(m.Credential) == "blue")
	}
	require.Equal(t, "blue", string(fromB()[0].Credential))

	l2, r2 := connect(t, a, b) // now they know each other
	exchange(t, l2, r2, "again")
	last := fromA()
	require.NotEmpty(t, last[len(last)-1].Candidates, "the offer has them: one message less")
	require.Equal(t, kindOffer, last[len(last)-1].Kind)

	said := len(fromB())
	_, err := stranger.Dial(testContext(t), b.self)
	require.ErrorIs(t, err, overlay.ErrRefused)
	require.NotContains(t, err.Error(), "secret")
	for _, m := range fromB()[said:] {
		require.Equal(t, kindRefusal, m.Kind)
		require.Empty(t, m.Candidates)
		require.Empty(t, m.Credential)
		require.Empty(t, m.Ufrag+m.Pwd)
	}
	for _, m := range fromStranger() {
		require.Equal(t, kindOffer, m.Kind)
		require.Empty(t, m.Candidates, "neither does the stranger")
	}
}

// TestDialledStranger: a stranger that admits everybody learns nothing of who dials it but
// the credential: no candidates, and no datagram goes to any address it names.
func TestDialledStranger(t *testing.T) {
	n := newTestNet()
	a, fromA := n.witness(t, newPassword("blue"))
	stranger := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	_, err := a.Dial(testContext(t), stranger.self)
	require.ErrorIs(t, err, overlay.ErrNotAdmitted)
	require.ErrorContains(t, err, "the secret reason", "our own log says why")
	for _, m := range fromA() {
		require.Equal(t, kindOffer, m.Kind)
		require.Empty(t, m.Candidates)
	}
	require.Zero(t, stranger.Stats().Dropped, "no datagram came")
	require.Positive(t, a.Stats().Refused)
	require.Empty(t, a.socket.byAddr, "and none was sent")
}

// TestForgedCandidates: candidates that others make up, or the peer tells of another
// session, change nothing.
func TestForgedCandidates(t *testing.T) {
	n := newTestNet()
	n.signals = overlaytest.NewNet(overlaytest.Config{Seed: 7, SignalLoss: 0.4, SignalDup: 0.5})
	n.config.Signal = n.signals.SignalOpener()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), newPassword("blue"))
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), newPassword("blue"))
	mallory, err := newSigner(overlaytest.NewIdentity(t))
	require.NoError(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			b.mu.Lock()
			in := b.inbound[a.self]
			b.mu.Unlock()
			m := offerMessage(a.self, b.self)
			m.Kind, m.Ufrag, m.Pwd = kindCandidates, "", ""
			if in != nil {
				m.Session = in.id[:]
			}
			bad, err := mallory.seal(m)
			if err == nil {
				_ = b.signalled(a.self, bad, time.Now())
			}
			other := offerMessage(a.self, b.self)
			other.Kind, other.Ufrag, other.Pwd = kindCandidates, "", ""
			if bad, err = a.signer.seal(other); err == nil {
				_ = b.signalled(a.self, bad, time.Now())
			}
		}
	})
	for range 3 {
		a.env.Admission.(*password).forget() // so that candidates are told late again
		l, r := connect(t, a, b)
		exchange(t, l, r, "made it, over lossy signalling")
		require.NoError(t, l.Close())
	}
	close(stop)
	wg.Wait()
}

// TestAdmissionEndsMeanwhile: who is not admitted any more when the handshake is done gets
// no Link, at either end.
func TestAdmissionEndsMeanwhile(t *testing.T) {
	for _, dialler := range []bool{true, false} {
		n := newTestNet()
		once := func() overlay.Admission {
			var mu sync.Mutex
			answered := false
			return admitFunc(func(_ overlay.PeerID, credential []byte) error {
				mu.Lock()
				defer mu.Unlock()
				if len(credential) > 0 {
					answered = true
					return nil
				}
				if answered {
					return errors.New("no longer")
				}
				return errors.New("not yet")
			})
		}
		rules := []overlay.Admission{newPassword("blue"), once()}
		if dialler {
			rules[0], rules[1] = rules[1], rules[0]
		}
		a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), rules[0])
		b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), rules[1])
		l, err := a.Dial(testContext(t), b.self)
		if dialler {
			require.ErrorIs(t, err, overlay.ErrNotAdmitted)
			continue
		}
		if err == nil {
			require.ErrorIs(t, l.RecvBatch(tap.NewBatch(1, 100)), overlay.ErrPeerClosed)
		}
		require.Empty(t, b.accepted)
		require.Positive(t, b.Stats().Refused)
	}
}

type admitFunc func(overlay.PeerID, []byte) error

func (admitFunc) Credential() []byte { return []byte("blue") }

func (f admitFunc) Admit(id overlay.PeerID, credential []byte) error { return f(id, credential) }

// TestLongestCredential travels beside as many candidates as there may be.
func TestLongestCredential(t *testing.T) {
	id := overlaytest.NewIdentity(t)
	s, err := newSigner(id)
	require.NoError(t, err)
	m := offerMessage(id.ID(), overlay.PeerID{1})
	for len(m.Candidates) < maxCandidates {
		m.Candidates = append(m.Candidates, m.Candidates[1])
	}
	m.Credential = bytes.Repeat([]byte{7}, overlay.MaxCredential)
	b, err := s.seal(m)
	require.NoError(t, err)
	require.Less(t, len(b), overlay.MaxSignal*3/4, "others may wrap it")
	_, back, err := s.parse(b)
	require.NoError(t, err)
	require.Equal(t, m, back)
}
