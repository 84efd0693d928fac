package vias

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/tap"
)

// link makes the hosts' interfaces, each called in its host's namespace, and is done when join returns.
type link interface {
	plug(t *testing.T, h *diffHost, other *diffHost)
	join(t *testing.T)
	check(t *testing.T)
}

// veth is a wire.
type veth struct{ mtu int }

func wired(mtu int) link { return &veth{mtu} }

func (v *veth) plug(t *testing.T, h, first *diffHost) {
	if h == first {
		return
	}
	itest.Exec(t, "ip", "link", "add", "g0", "type", "veth", "peer", "name", "g0", "netns",
		fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), first.ns.Fd()))
	h.configure(t, v.mtu)
	inNamespace(t, first.ns, func() { first.configure(t, v.mtu) })
}

func (v *veth) join(*testing.T)  {}
func (v *veth) check(*testing.T) {}

// taps are two Networks with a TAP each.
type taps struct {
	mtu   int
	lab   *lab
	nodes []*node
	drops [2]Drops
}

func tapped(t *testing.T, mtu int) link {
	return &taps{mtu: mtu, lab: newLab(t, overlaytest.Config{MTU: 1400, Queue: 1 << 14})}
}

func (p *taps) plug(t *testing.T, h, _ *diffHost) {
	device, err := tap.LinuxConfig{Name: "g0", MTU: p.mtu, LeaveDown: true, Join: true, JoinUDP: true}.Open(t.Context())
	require.NoError(t, err)
	m := p.lab.node(nil)
	_ = m.wire.Close()
	m.device = device
	h.configure(t, p.mtu)
	require.NoError(t, m.Attach(context.Background(), Endpoint{
		Name: string(rune('a' + h.i)), MAC: testMAC(h.i), IPs: []netip.Addr{h.addr(false, h.i), h.addr(true, h.i)},
	}))
	p.nodes = append(p.nodes, m)
}

func (p *taps) join(t *testing.T) {
	require.NoError(t, p.nodes[0].AddPeer(p.nodes[1].ID()))
	require.NoError(t, p.nodes[1].AddPeer(p.nodes[0].ID()))
	for _, m := range p.nodes {
		m.run()
	}
	waitLinked(t, p.nodes...)
	for i, m := range p.nodes {
		p.drops[i] = m.Stats().Drops
	}
}

// check: nothing was dropped since the link was there.
func (p *taps) check(t *testing.T) {
	for i, m := range p.nodes {
		s := m.Stats()
		require.Equal(t, p.drops[i], s.Drops)
		require.Zero(t, s.Device)
		require.Greater(t, s.Sent.Frames, uint64(500)) // the fewer, the more were joined
	}
}
