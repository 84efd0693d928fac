package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// What stands outside of all clouds, for those that have no address of their own in them.
const (
	relayPort   = 3478
	relaySecret = "of the lab"
)

// outsideServer is where signalling, STUN and TURN are, for all clouds.
func (l *Lab) outsideServer(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(nth(l.cfg.Sites[0].Outside, 254), port)
}

// void has what is sent to private addresses outside lost without an error: coturn ends an
// allocation at one.
func (l *Lab) void(ctx context.Context) error {
	return l.ips(ctx, l.cfg.outside(), "link add void type veth peer name void1", "link set void arp off up", "link set void1 up", "route add default dev void")
}

// turnServer starts coturn, which is STUN's server too.
func (l *Lab) turnServer(ctx context.Context) (*child, error) {
	at, dir := l.outsideServer(relayPort), l.Dir()
	c, err := l.spawn(l.cfg.outside(), nil, nil, nil, "turnserver", "-n", "-L", at.Addr().String(), "-E", at.Addr().String(), "-r", "vias",
		"--use-auth-secret", "--static-auth-secret", relaySecret, "--no-cli", "--no-dtls", "--no-tls",
		"--pidfile", filepath.Join(dir, "turn.pid"), "--db", filepath.Join(dir, "turn.db"), "--log-file", filepath.Join(dir, "turn.log"), "--simple-log")
	if err != nil {
		return nil, err
	}
	return c, c.waitListening(ctx, at.Port())
}

// endNode asks a node to end, which it does in order.
func (l *Lab) endNode(host int, n *child) error {
	err := l.stop(n)
	if n.err != nil {
		err = errors.Join(err, fmt.Errorf("the node of host %d did not end in order: %w: %s", host, n.err, logTail(l.hosts[host-1].Log())))
	}
	return err
}

// clean says what a node that has ended left on its host.
func (l *Lab) clean(ctx context.Context, h *Host) error {
	if err := l.noRules(ctx, h.Index); err != nil {
		return err
	}
	tables, err := l.in(ctx, h.Namespace, "nft", "list", "tables")
	if err != nil {
		return err
	}
	for line := range strings.Lines(tables) {
		if strings.TrimSpace(line) != "table netdev uplink" {
			return fmt.Errorf("%s is left", strings.TrimSpace(line))
		}
	}
	return nil
}
