package membership

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

func TestAllowList(t *testing.T) {
	a, b := newIdentity(t).ID(), newIdentity(t).ID()
	var l AllowList
	require.ErrorIs(t, l.Admit(a, nil), overlay.ErrNotAdmitted)
	l.Add(a)
	require.NoError(t, l.Admit(a, []byte("whatever")))
	require.ErrorIs(t, l.Admit(b, nil), ErrNotMember)
	l.Set(b)
	require.ErrorIs(t, l.Admit(a, nil), ErrNotMember)
	l.Remove(b)
	require.ErrorIs(t, l.Admit(b, nil), ErrNotMember)
	require.NoError(t, Allow(a, b).Admit(b, nil))
	require.Nil(t, l.Credential())
}
