//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// upVias starts a node at each side, on the overlay only. Its TAP is there before, with a
// MAC address of our choice: it is what the guest would be.
func upVias(ctx context.Context, w *wire, bin string, dtlsOnly bool) error {
	node := filepath.Join(bin, "node")
	var ids [2]overlay.PeerID
	for s := range side(2) {
		out, err := output(ctx, node, "id", "-identity", w.file(s, "pem"))
		if err != nil {
			return err
		}
		if err := ids[s].UnmarshalText([]byte(strings.TrimSpace(out))); err != nil {
			return fmt.Errorf("node id said %q: %w", out, err)
		}
	}
	rendezvous := netip.MustParseAddrPort(wireB + ":7999")
	for s := range side(2) {
		mac := tap.MAC{2, 0, 0, 0, 0, byte(0xa + s)}
		c := nodecfg.Config{
			Identity: w.file(s, "pem"), Network: "bench", Signal: nodecfg.Signal{TCP: rendezvous}, DTLSOnly: dtlsOnly,
			Listen: netip.MustParseAddrPort(s.wire() + ":5700"), TAP: nodecfg.TAP{Name: w.dev(s), MTU: 1420},
			Endpoints: []nodecfg.Endpoint{{Name: s.String(), MAC: mac, IPs: []netip.Addr{netip.MustParseAddr(s.over())}}},
			Peers:     []nodecfg.Peer{{ID: ids[1-s]}}, Status: w.file(s, "sock"),
		}
		if s == 1 {
			c.Signal.Serve = rendezvous
		}
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if err := os.WriteFile(w.file(s, "json"), text, 0o600); err != nil {
			return err
		}
		if err := w.all(ctx, s, "ip tuntap add dev "+w.dev(s)+" mode tap", "ip link set "+w.dev(s)+" address "+mac.String()); err != nil {
			return err
		}
		if err := w.tunnel(s, nil, node, "run", "-config", w.file(s, "json")); err != nil {
			return err
		}
	}
	return w.address(ctx, 1420)
}
