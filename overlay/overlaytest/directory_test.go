package overlaytest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

func TestDirectory(t *testing.T) {
	for name, c := range map[string]DirectoryConfig{"fast": {}, "slow": {Delay: 50 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			RunDirectory(t, func(*testing.T) DirectoryHarness {
				return DirectoryHarness{Open: NewDirectory(c).Opener(), Run: synctest.Test}
			})
		})
	}
}

// TestDirectoryFaults: away and back, reset, forged.
func TestDirectoryFaults(t *testing.T) {
	d := NewDirectory(DirectoryConfig{})
	a := openDirectory(t, DirectoryHarness{Open: d.Opener()}, NewIdentity(t), directoryNetwork)
	key := overlay.KeyMAC(stationMAC(1))
	r := a.tell(overlay.Entry{MAC: stationMAC(1)})
	told := 0
	defer a.Watch(key, func() { told++ })()
	d.SetAway(true)
	_, err := a.Lookup(timeout(t), key)
	require.ErrorIs(t, err, errAway)
	require.Error(t, a.Publish(timeout(t), r))
	require.Error(t, a.Withdraw(timeout(t), stationMAC(1)))
	require.Zero(t, told)
	d.SetAway(false)
	require.Equal(t, 1, told)
	a.sees(key, r)
	d.Reset()
	require.Equal(t, 2, told)
	a.sees(key)
	d.Forge(directoryNetwork, key, overlay.PeerID{1}, []byte("x"))
	r = a.tell(overlay.Entry{MAC: stationMAC(1)})
	list, err := a.Lookup(timeout(t), key)
	require.NoError(t, err)
	require.Equal(t, "x", string(list[0].Signed))
	require.Equal(t, r.Signed, list[1].Signed)
	c := d.Counts(a.id.ID())
	require.EqualValues(t, 2, c.Publishes)
	require.Positive(t, c.Bytes)
	require.Positive(t, c.Messages())
}
