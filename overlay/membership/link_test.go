package membership

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// TestLinksOfMembers is the rule on a real transport: members of one network link, in the
// middle of a rotation and with a long revocation list too; all others hear "refused".
func TestLinksOfMembers(t *testing.T) {
	signals := overlaytest.NewNet(overlaytest.Config{})
	open := func(id *overlay.Identity, rule overlay.Admission) overlay.Transport {
		t.Helper()
		tr, err := icedtls.Open(icedtls.Config{
			Signal: signals.SignalOpener(), Listen: netip.MustParseAddrPort("127.0.0.1:0"), IncludeLoopback: true,
		})(t.Context(), overlay.Env{Identity: id, Admission: rule, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(func() { _ = tr.Close() })
		return tr
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o, other := newOffice(t, "blue"), newOffice(t, "green")
	a, b, revoked, stranger := newIdentity(t), newIdentity(t), newIdentity(t), newIdentity(t)
	for _, id := range []*overlay.Identity{a, b, revoked} {
		o.issue(id, 0)
	}
	other.issue(stranger, 0)
	before := o.member(revoked.ID(), nil)
	for range 60 {
		bad, _ := o.join()
		require.NoError(t, o.moveToRevoked(bad))
	}
	old := o.member(b.ID(), nil) // has not heard of what follows
	require.NoError(t, o.Rotate(0))
	require.NoError(t, o.Revoke(revoked.ID()))
	at, bt := open(a, o.member(a.ID(), nil)), open(b, old)
	require.Less(t, 3500, len(o.member(a.ID(), nil).Credential()))

	l, err := at.Dial(ctx, b.ID())
	require.NoError(t, err)
	r, err := bt.Accept(ctx)
	require.NoError(t, err)
	batch := tap.NewBatch(1, 1500)
	got := make(chan error, 1)
	go func() { got <- r.RecvBatch(tap.NewBatch(8, 8*1500)) }()
	for sent := false; !sent; {
		batch.Reset()
		batch.Append([]byte("hello"), tap.Offload{})
		require.NoError(t, l.SendBatch(batch))
		select {
		case err := <-got:
			require.NoError(t, err)
			sent = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	for id, rule := range map[*overlay.Identity]overlay.Admission{
		revoked: before, stranger: other.member(stranger.ID(), nil), newIdentity(t): Allow(a.ID(), b.ID()),
	} {
		_, err := open(id, rule).Dial(ctx, a.ID())
		require.ErrorIs(t, err, overlay.ErrRefused)
		require.False(t, errors.Is(err, overlay.ErrNotAdmitted))
		_, err = at.Dial(ctx, id.ID())
		require.Error(t, err)
	}
	require.ErrorIs(t, old.Admit(revoked.ID(), before.Credential()), ErrRevoked, "a told b, by linking")
}
