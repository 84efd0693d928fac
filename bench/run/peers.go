//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/viasnet/vias/bench"
)

// peer is something that carries packets from one side to the other.
type peer struct {
	name  string
	needs []string // programs: in the PATH, or in the directory of built ones
	up    func(context.Context, *wire, string) error
	bare  bool     // tests go over the wire itself
	says  []string // a command that tells the version
}

var wireGuardModule, nebulaModules = "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446", "github.com/slackhq/nebula/cmd/%s@v1.11.0"

func peers() []peer {
	return []peer{
		{name: "native", bare: true, up: func(context.Context, *wire, string) error { return nil }},
		{name: "vxlan", up: upVXLAN},
		{name: bench.Vias, needs: []string{"node"}, up: func(ctx context.Context, w *wire, bin string) error { return upVias(ctx, w, bin, false) }},
		{name: "vias-dtls", needs: []string{"node"}, up: func(ctx context.Context, w *wire, bin string) error { return upVias(ctx, w, bin, true) }},
		{name: bench.Bound, needs: []string{"bound"}, up: upBound},
		{name: bench.WireGuard, needs: []string{"wireguard", "wg"}, up: upWireGuard, says: []string{"wireguard", "--version"}},
		{name: bench.Nebula, needs: []string{"nebula", "nebula-cert"}, up: upNebula, says: []string{"nebula", "-version"}},
		{name: bench.OpenVPN, needs: []string{"openvpn", "openssl"}, up: upOpenVPN, says: []string{"openvpn", "--version"}},
		{name: "tinc", needs: []string{"tincd", "openssl"}, up: upTinc, says: []string{"tincd", "--version"}},
	}
}

func known() (names []string) {
	for _, p := range peers() {
		names = append(names, p.name)
	}
	return names
}

// choose finds peers by their names.
func choose(names string) (list []peer, err error) {
	all := peers()
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(p peer) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no peer %q: %s", name, strings.Join(known(), ", "))
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
func ready(ctx context.Context, bin string, list []peer) error {
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

func upBound(ctx context.Context, w *wire, bin string) error {
	for s := range side(2) {
		err := w.tunnel(s, nil, filepath.Join(bin, "bound"), "-dev", w.dev(s), "-local", s.wire()+":5700", "-remote", (1-s).wire()+":5700")
		if err != nil {
			return err
		}
	}
	return w.address(ctx, 1420)
}
