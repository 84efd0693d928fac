package lab

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/lab/chaos"
)

// The judges of Chaos.

func TestWatch(t *testing.T) {
	w := &watch{marker: chaos.Marker{1, 2, 3}}
	inside := func(index int) bool { return index == 7 }
	clear := append(append([]byte("a frame"), w.marker[:]...), "and more"...)
	w.look([]byte("a frame"), &unix.SockaddrLinklayer{Ifindex: 3}, "net", inside)
	w.look(clear, &unix.SockaddrLinklayer{Ifindex: 7}, "net1", inside)
	outside, in, frames := w.counts()
	require.Equal(t, []int{0, 1, 2}, []int{outside, in, frames})
	require.Empty(t, w.first())
	w.look(clear, &unix.SockaddrLinklayer{Ifindex: 8}, "net1", inside)
	outside, _, _ = w.counts()
	require.Equal(t, 1, outside)
	require.Contains(t, w.first(), "in net1: ")
}

func TestRemains(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	require.NoError(t, remains(stateData{Dir: dir, Namespaces: []string{"vias-of-nobody"}}))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.ErrorIs(t, remains(stateData{Dir: dir}), chaos.ErrChaos)
	require.NoError(t, os.Remove(dir))
	c := exec.Command("sh", "-c", "read x", dir+"/x")
	in, err := c.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	require.ErrorContains(t, remains(stateData{Dir: dir}), "a process is left: sh -c read x "+dir+"/x")
	require.NoError(t, in.Close())
	_ = c.Wait()
	require.NoError(t, remains(stateData{Dir: dir}))
}

func TestChaosSites(t *testing.T) {
	c, err := ChaosConfig{}.lab().normal()
	require.NoError(t, err)
	require.Equal(t, "lan0", c.siteNr(0).bridge)
	require.Equal(t, c.Sites[0].Prefix, c.Sites[1].Prefix, "two clouds have the same range")
	of := map[int]int{}
	for _, h := range c.plan() {
		of[c.site(h.Index).nr]++
	}
	require.Equal(t, map[int]int{0: 2, 1: 2, 2: 1}, of)
	c.Sites[0].Outside = c.Sites[0].Outside.Masked()
	c.Sites[1].Outside = c.Sites[0].Outside
	_, err = c.normal()
	require.ErrorContains(t, err, "is there twice")
	c.Sites[1].Outside = netip.Prefix{}
	_, err = c.normal()
	require.ErrorContains(t, err, "a NAT without an outer address")
}
