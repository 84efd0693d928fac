package embedded_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/membership"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/overlaytest"
)

func TestAdmit(t *testing.T) {
	good, bad := overlaytest.NewIdentity(t), overlaytest.NewIdentity(t)
	s := serve(t, embedded.Config{Admit: membership.Allow(good.ID()).Admit})
	raw(t, s, good)
	for name, opt := range map[string]nats.Option{
		"not admitted":  natssignal.ProofOption(bad, nil),
		"no proof":      nats.Name("nobody"),
		"a password":    nats.UserInfo("keeper", ""),
		"a wrong proof": nats.UserJWT(func() (string, error) { return "vias", nil }, func([]byte) ([]byte, error) { return []byte{255, 1}, nil }),
		"an old proof": nats.UserJWT(func() (string, error) { return "vias", nil },
			func([]byte) ([]byte, error) { return natssignal.Prove(good, []byte("another nonce"), nil) }),
	} {
		_, err := nats.Connect(s.URL(), opt)
		require.ErrorIs(t, err, nats.ErrAuthorization, name)
	}
}

// member makes a member of a's network.
func member(t testing.TB, a *membership.Authority) (*overlay.Identity, *membership.Member) {
	t.Helper()
	id := overlaytest.NewIdentity(t)
	request, err := membership.Request(id)
	require.NoError(t, err)
	_, err = a.Issue(0, request)
	require.NoError(t, err)
	m, err := membership.Open(membership.Config{Network: a.Network(), Self: id.ID(), Dir: a.Folder(id.ID())})
	require.NoError(t, err)
	return id, m
}

// A server lets in who is a member of its network, and nobody else; whoever is refused hears
// one and the same word.
func TestAdmitMembers(t *testing.T) {
	blue, err := membership.CreateAuthority(filepath.Join(t.TempDir(), "ca"), "blue")
	require.NoError(t, err)
	t.Cleanup(func() { _ = blue.Close() })
	green, err := membership.CreateAuthority(filepath.Join(t.TempDir(), "ca"), "green")
	require.NoError(t, err)
	t.Cleanup(func() { _ = green.Close() })
	_, rule := member(t, blue)
	good, goodRule := member(t, blue)
	stranger, strangerRule := member(t, green)
	leaver, leaverRule := member(t, blue)

	s := serve(t, embedded.Config{Admit: func(p overlay.PeerID, c []byte) error {
		err := rule.Admit(p, c)
		t.Log(p.Short(), len(c), err)
		return err
	}})
	dial := func(opt nats.Option) (*nats.Conn, error) {
		c, err := nats.Connect(s.URL(), opt, nats.NoReconnect())
		if err == nil {
			t.Cleanup(c.Close)
		}
		return c, err
	}
	said := map[string]bool{}
	nobody := overlaytest.NewIdentity(t)
	for name, opt := range map[string]nats.Option{
		"a member that shows nothing": natssignal.ProofOption(good, nil),
		"another network's member":    natssignal.ProofOption(stranger, strangerRule.Certificates),
		"another's certificate":       natssignal.ProofOption(nobody, goodRule.Certificates),
		"nonsense":                    natssignal.ProofOption(nobody, func() []byte { return []byte{1, 2, 3} }),
		"too much":                    natssignal.ProofOption(good, func() []byte { return make([]byte, 2049) }),
		"nobody":                      natssignal.ProofOption(nobody, nil),
	} {
		_, err := dial(opt)
		require.ErrorIs(t, err, nats.ErrAuthorization, name)
		said[err.Error()] = true
	}
	require.Len(t, said, 1)
	stays, err := dial(natssignal.ProofOption(good, goodRule.Certificates))
	require.NoError(t, err)
	goes, err := dial(natssignal.ProofOption(leaver, leaverRule.Certificates))
	require.NoError(t, err)
	require.NoError(t, goes.Flush())

	require.NoError(t, blue.Revoke(leaver.ID()))
	_, newRule := member(t, blue) // with the newest list
	require.NoError(t, rule.Admit(good.ID(), append(goodRule.Certificates(), newRule.Credential()[len(newRule.Certificates()):]...)))
	await(t, func() bool { return goes.IsClosed() })
	require.True(t, stays.IsConnected())
	_, err = dial(natssignal.ProofOption(leaver, leaverRule.Certificates))
	require.ErrorIs(t, err, nats.ErrAuthorization)
}

// The rule is asked again for those who are connected already.
func TestAdmitEnds(t *testing.T) {
	var shut atomic.Bool
	id := overlaytest.NewIdentity(t)
	s := serve(t, embedded.Config{Admit: func(peer overlay.PeerID, _ []byte) error {
		if peer == id.ID() && shut.Load() {
			return overlay.ErrNotAdmitted
		}
		return nil
	}})
	c, other := connect(t, s, id), connect(t, s, overlaytest.NewIdentity(t))
	await(t, func() bool { return c.Stats().Connected == 1 && other.Stats().Connected == 1 })
	shut.Store(true)
	await(t, func() bool { return s.NumClients() == 2 }) // the other, and the server's own
	shut.Store(false)
	await(t, func() bool { return c.Stats().Connected == 2 })
	require.Equal(t, uint64(1), other.Stats().Connected)
}
