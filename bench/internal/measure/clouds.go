//go:build linux

package measure

import (
	"context"
	"net/netip"
	"time"

	"github.com/viasnet/vias/bench"
	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/nodecfg"
)

// Between two clouds: 20 ms more for a round trip, and 1 % of the packets lost in either direction.
var far = lab.Far{Delay: 10 * time.Millisecond, Loss: 0.01}

// twoClouds are two hosts that a router and a long way stand between.
func twoClouds(beside bool) lab.Config {
	site := func(nr byte) lab.Site {
		return lab.Site{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, nr, 0}), 24)}
	}
	return lab.Config{Sites: []lab.Site{site(0), site(1)}, Far: far, Beside: beside}
}

// Clouds are the peers of bench/evaluate: what the paper on VIAS compares, in its layout, within
// a cloud and between two.
func Clouds() []Peer {
	intra, inter := []string{bench.ModeIntra}, []string{bench.ModeInter}
	needs := []string{"node", "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "nft"}
	version := []string{"ovs-vswitchd", "--version"}
	on, off := [2]float64{0.95, 4}, [2]float64{0, 0.05} // what is lost is sent again
	return []Peer{
		{name: "native", needs: needs[1:], lab: true, modes: intra, up: upLabNative, says: version},
		{name: "overlay", needs: needs, lab: true, modes: intra, up: labWith(lab.Config{}, nodecfg.Overlay), tunnelled: on},
		{name: "overlay-beside", needs: needs, lab: true, modes: intra, up: labWith(lab.Config{Beside: true}, nodecfg.Overlay), tunnelled: on},
		{name: "bypass", needs: needs, lab: true, modes: intra, up: labWith(lab.Config{}, nodecfg.Bypass), tunnelled: off},
		{name: "hosts", needs: needs[1:], lab: true, modes: inter, up: upHosts},
		// The policy is to bypass, and the proof refuses: these are two networks.
		{name: "overlay-inter", needs: needs, lab: true, modes: inter, up: labWith(twoClouds(false), nodecfg.Bypass), tunnelled: on},
		{name: "overlay-inter-beside", needs: needs, lab: true, modes: inter, up: labWith(twoClouds(true), nodecfg.Bypass), tunnelled: on},
	}
}

// upHosts has tests run on the hosts themselves.
func upHosts(ctx context.Context, w *wire, _ string) error {
	l, err := w.openLab(ctx, twoClouds(false))
	if err != nil {
		return err
	}
	for i, h := range l.Hosts() {
		w.guests[i], w.addrs[i] = h.Namespace, h.Addr.String()
	}
	return nil
}
