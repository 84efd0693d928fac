//go:build linux

package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// viasKind is how nodes reach each other.
type viasKind int

const (
	viasPlain viasKind = iota
	viasDTLS           // a DTLS record for each frame
	viasRelay          // by a TURN server
)

func viasAs(kind viasKind) func(context.Context, *wire, string) error {
	return func(ctx context.Context, w *wire, bin string) error {
		if kind == viasRelay {
			if err := w.startRelay(ctx); err != nil {
				return err
			}
		}
		if err := upVias(ctx, w, bin, kind); err != nil || kind != viasRelay {
			return err
		}
		return w.relayed(ctx)
	}
}

// upVias starts a node at each side, on the overlay only. Its TAP is there before, with a
// MAC address of our choice: it is what the guest would be.
func upVias(ctx context.Context, w *wire, bin string, kind viasKind) error {
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
	for s := range side(2) {
		c := w.nodeConfig(s, kind)
		c.Peers = []nodecfg.Peer{{ID: ids[1-s]}}
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if err := os.WriteFile(w.file(s, "json"), text, 0o600); err != nil {
			return err
		}
		mac := c.Endpoints[0].MAC.String()
		if err := w.all(ctx, s, "ip tuntap add dev "+w.dev(s)+" mode tap", "ip link set "+w.dev(s)+" address "+mac); err != nil {
			return err
		}
		if err := w.tunnel(s, nil, node, "run", "-config", w.file(s, "json")); err != nil {
			return err
		}
	}
	return w.address(ctx, 1420)
}

// nodeConfig is a node's configuration but for its peer.
func (w *wire) nodeConfig(s side, kind viasKind) nodecfg.Config {
	rendezvous := netip.MustParseAddrPort(wireB + ":7999")
	c := nodecfg.Config{
		Identity: w.file(s, "pem"), Network: "bench", Signal: nodecfg.Signal{TCP: rendezvous}, DTLSOnly: kind == viasDTLS,
		Listen: netip.MustParseAddrPort(s.wire() + ":5700"), TAP: nodecfg.TAP{Name: w.dev(s), MTU: 1420},
		Endpoints: []nodecfg.Endpoint{{Name: s.String(), MAC: tap.MAC{2, 0, 0, 0, 0, byte(0xa + s)}, IPs: []netip.Addr{netip.MustParseAddr(s.over())}}},
		Status:    w.file(s, "sock"),
	}
	if s == 1 {
		c.Signal.Serve = rendezvous
	}
	if kind == viasRelay {
		c.Relays = []nodecfg.Relay{{URL: "turn:" + wireM + ":3478?transport=udp", Secret: relaySecret}}
	}
	return c
}

// relayed waits until both nodes say that they are linked by the relay.
func (w *wire) relayed(ctx context.Context) error {
	var why string
	for s := range side(2) {
		err := poll(ctx, 20*time.Second, func() bool {
			status, err := nodeapi.Client{Socket: w.file(s, "sock")}.Status(ctx)
			switch {
			case err != nil:
				why = err.Error()
			case len(status.Peers) != 1 || status.Peers[0].Link == nil:
				why = "no link"
			default:
				why = "the link is of kind " + status.Peers[0].Link.Kind
				return status.Peers[0].Link.Kind == "relay"
			}
			return false
		})
		if err != nil {
			return fmt.Errorf("%s does not use the relay: %w (%s; %s)", s, err, why, w.logs())
		}
	}
	return nil
}
