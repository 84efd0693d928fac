//go:build linux

package measure

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/viasnet/vias/bench"
	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/nodecfg"
)

// Peer is something that carries packets from one side to the other.
type Peer struct {
	name   string
	needs  []string // programs: in the PATH, or in the directory of built ones
	up     func(context.Context, *wire, string) error
	bare   bool     // tests go over the wire itself
	middle bool     // something stands between the sides
	lab    bool     // up makes the wire, too
	says   []string // a command that tells the version
	// modes that it is measured in; nil = default and nic.
	modes []string
	// tunnelled is the least share, and the most, of TCP that crosses the overlay of a lab.
	tunnelled [2]float64
}

// in tells whether it is measured in that mode.
func (p Peer) in(mode string) bool {
	if p.modes == nil {
		return bench.Loss(mode) == 0
	}
	return slices.Contains(p.modes, mode)
}

var wireGuardModule, nebulaModules = "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446", "github.com/slackhq/nebula/cmd/%s@v1.11.0"

// Overlays are the peers of bench/run: other overlays, and vias in several ways.
func Overlays() []Peer {
	all, plain := []string{bench.ModeDefault, bench.ModeNIC, bench.ModeLoss1, bench.ModeLoss10}, []string{bench.ModeDefault}
	needs := []string{"node", "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "nft"}
	return []Peer{
		{name: "native", bare: true, modes: all, up: func(context.Context, *wire, string) error { return nil }},
		{name: "vxlan", up: upVXLAN},
		{name: bench.Vias, needs: []string{"node"}, modes: all, up: viasAs(viasPlain)},
		{name: "vias-dtls", needs: []string{"node"}, up: viasAs(viasDTLS)},
		{name: "vias-relay", needs: []string{"node", "turnserver", "nft"}, middle: true, modes: plain, up: viasAs(viasRelay)},
		{name: bench.Bound, needs: []string{"bound"}, up: upBound()},
		{name: "bound-datagrams", needs: []string{"bound"}, up: upBound("-datagrams")},
		{name: bench.WireGuard, needs: []string{"wireguard", "wg"}, modes: all, up: upWireGuard, says: []string{"wireguard", "--version"}},
		{name: bench.Nebula, needs: []string{"nebula", "nebula-cert"}, up: upNebula, says: []string{"nebula", "-version"}},
		{name: bench.OpenVPN, needs: []string{"openvpn", "openssl"}, up: upOpenVPN, says: []string{"openvpn", "--version"}},
		{name: "tinc", needs: []string{"tincd", "openssl"}, up: upTinc, says: []string{"tincd", "--version"}},
		{name: "native-ovs", needs: needs[1:], lab: true, modes: plain, up: upLabNative, says: []string{"ovs-vswitchd", "--version"}},
		{name: "vias-ovs", needs: needs, lab: true, modes: plain, up: labWith(lab.Config{}, nodecfg.Overlay), tunnelled: [2]float64{0.95, 2}},
		{name: "bypass", needs: needs, lab: true, modes: plain, up: labWith(lab.Config{}, nodecfg.Bypass), tunnelled: [2]float64{0, 0.05}},
	}
}

// Names of peers, in their order.
func Names(list []Peer) (names []string) {
	for _, p := range list {
		names = append(names, p.name)
	}
	return names
}

// Choose finds peers by their names, which commas separate.
func Choose(all []Peer, names string) (list []Peer, err error) {
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(p Peer) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no peer %q: %s", name, strings.Join(Names(all), ", "))
		}
		list = append(list, all[i])
	}
	return list, nil
}

// built are programs that go builds into the directory of built ones, from what.
var built = map[string]string{
	"node": "./examples/node", "bound": "./bench/bound", "wireguard": wireGuardModule,
	"nebula": fmt.Sprintf(nebulaModules, "nebula"), "nebula-cert": fmt.Sprintf(nebulaModules, "nebula-cert"),
}

// ready builds what is to be built, and says what is missing.
func ready(ctx context.Context, bin string, list []Peer) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("it makes network namespaces: run it as root")
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	need := []string{"ip", "iperf3", "ethtool", "ping", "sysctl"}
	for _, p := range list {
		need = append(need, p.needs...)
	}
	var missing []string
	for _, name := range slices.Compact(slices.Sorted(slices.Values(need))) {
		from, ours := built[name]
		if !ours {
			if _, err := exec.LookPath(name); err != nil {
				missing = append(missing, name)
			}
			continue
		}
		if err := build(ctx, bin, name, from); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s (sh scripts/deps.sh bench installs them)", strings.Join(missing, " "))
	}
	return nil
}

// build builds a program of this module anew, one of another module once.
func build(ctx context.Context, bin, name, from string) error {
	path := filepath.Join(bin, name)
	if strings.HasPrefix(from, "./") {
		_, err := output(ctx, "go", "build", "-o", path, from)
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", from)
	cmd.Env = append(os.Environ(), "GOBIN="+bin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go install %s: %w: %s", from, err, out)
	}
	return nil
}

func upVXLAN(ctx context.Context, w *wire, _ string) error {
	for s := range side(2) {
		err := w.all(ctx, s, fmt.Sprintf("ip link add %s type vxlan id 42 local %s remote %s dstport 4789 dev wire", w.dev(s), s.wire(), (1-s).wire()))
		if err != nil {
			return err
		}
	}
	return w.address(ctx, 1450)
}

func upBound(flags ...string) func(context.Context, *wire, string) error {
	return func(ctx context.Context, w *wire, bin string) error {
		for s := range side(2) {
			args := append([]string{filepath.Join(bin, "bound"), "-dev", w.dev(s), "-local", s.wire() + ":5700", "-remote", (1 - s).wire() + ":5700"}, flags...)
			if err := w.tunnel(s, nil, args...); err != nil {
				return err
			}
		}
		return w.address(ctx, 1420)
	}
}
