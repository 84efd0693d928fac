package underlay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias/bypass"
)

// guard is one nftables table and the nft process that owns it.
//
// The kernel deletes a table made with `flags owner` (Linux 5.12) when the socket
// that made it closes. That socket is the child's, and the child ends when our end
// of its standard input does: so the table goes with this process, however it ends.
// An owned table also survives `nft flush ruleset`.
type guard struct {
	u     *Underlay
	table string
	// ports and peers are what the table holds now; guarded by Underlay.guardMu.
	ports bypass.PortRange
	peers []netip.Addr

	shell *nftShell
	quit  chan struct{} // closed by endGuard
	ended chan struct{} // closed when keep returned
}

// Guard drops TCP and UDP from peers to our own addresses on ports, before
// connection tracking and before any socket. While it has peers the host resets nothing
// from these ports either, to anybody. The rules count what they drop.
func (u *Underlay) Guard(ctx context.Context, ports bypass.PortRange, peers []netip.Addr) error {
	if len(peers) == 0 {
		return u.endGuard(false)
	}
	if ports == (bypass.PortRange{}) {
		ports = bypass.DefaultPorts
	}
	u.guardMu.Lock()
	defer u.guardMu.Unlock()
	if u.closed {
		return fmt.Errorf("underlay: guard: %w", os.ErrClosed)
	}
	var err error
	if u.guard == nil {
		err = u.startGuardLocked(ctx, ports, peers)
	} else {
		err = u.guard.replace(ctx, ports, peers)
	}
	if err != nil {
		return fmt.Errorf("underlay: guard: %w", err)
	}
	return nil
}

func (u *Underlay) startGuardLocked(ctx context.Context, ports bypass.PortRange, peers []netip.Addr) error {
	g := &guard{u: u, table: tableName(), ports: ports, peers: peers,
		quit: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if g.shell, err = startNFT(u); err != nil {
		return err
	}
	if err := g.shell.run(ctx, ruleset(g.table, ports, peers)); err != nil {
		_ = g.shell.close()
		return err
	}
	u.guard = g
	go g.keep()
	return nil
}

// endGuard removes the guard, if there is one, and returns when its table, its
// child and its goroutine are gone.
func (u *Underlay) endGuard(forGood bool) error {
	u.guardMu.Lock()
	g := u.guard
	u.guard = nil
	u.closed = u.closed || forGood
	if g == nil {
		u.guardMu.Unlock()
		return nil
	}
	close(g.quit)
	shell := g.shell // revive leaves it alone from here on
	u.guardMu.Unlock()
	err := shell.close()
	<-g.ended
	return err
}

// replace makes the table hold ports and peers. When the outcome is not known the
// child is ended, and keep starts another with the new list.
func (g *guard) replace(ctx context.Context, ports bypass.PortRange, peers []netip.Addr) error {
	text := changes(g.table, g.peers, peers)
	switch {
	case g.ports != ports:
		text = "delete table inet " + g.table + "; " + ruleset(g.table, ports, peers)
	case text == "":
		return nil
	}
	before, list := g.ports, g.peers
	g.ports, g.peers = ports, peers
	err := g.shell.run(ctx, strings.TrimPrefix(text, "; "))
	if errors.Is(err, errRefused) {
		g.ports, g.peers = before, list
	} else if err != nil {
		_ = g.shell.close()
	}
	return err
}

// tableName is unique also among several Underlays of one process.
func tableName() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("vias_guard_%d_%s", os.Getpid(), hex.EncodeToString(b[:]))
}

// ruleset is the whole table as one transaction on one line. The chain guard stands
// before connection tracking (-200) and DNAT; `fib daddr type local` spares what the
// host only forwards. A peer whose packets are suddenly translated on the way is not in
// the list: the chain resets keeps the stack from resetting its guests' connections.
func ruleset(table string, ports bypass.PortRange, peers []netip.Addr) string {
	rule := fmt.Sprintf("meta l4proto { tcp, udp } th dport %d-%d fib daddr type local counter drop",
		ports.First(), ports.Last())
	t := "inet " + table
	return strings.Join([]string{
		"add table " + t + " { flags owner; }",
		"add set " + t + " peers4 { type ipv4_addr; }",
		"add set " + t + " peers6 { type ipv6_addr; }",
		"add chain " + t + " guard { type filter hook prerouting priority -300; policy accept; }",
		"add rule " + t + " guard ip saddr @peers4 " + rule,
		"add rule " + t + " guard ip6 saddr @peers6 " + rule,
		"add chain " + t + " resets { type filter hook output priority -300; policy accept; }",
		fmt.Sprintf("add rule %s resets tcp sport %d-%d tcp flags & rst == rst counter drop", t, ports.First(), ports.Last()),
	}, "; ") + changes(table, nil, peers)
}

// changes makes the list of peers another one and touches nothing else: what the packets
// of those in both lists meet does not change for a moment. Each statement follows a
// semicolon; "" = the lists are the same.
func changes(table string, before, now []netip.Addr) (text string) {
	gone, come := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, p := range before {
		gone[p.Unmap().WithZone("")] = true
	}
	for _, p := range now {
		come[p.Unmap().WithZone("")] = true
	}
	for p := range come {
		if gone[p] {
			delete(gone, p)
			delete(come, p)
		}
	}
	return elements("delete", table, gone) + elements("add", table, come)
}

// elements adds peers to their families' sets, or deletes them.
func elements(verb, table string, peers map[netip.Addr]bool) (text string) {
	lists := map[string][]string{}
	for _, p := range slices.SortedFunc(maps.Keys(peers), netip.Addr.Compare) {
		set := "peers6"
		if p.Is4() {
			set = "peers4"
		}
		lists[set] = append(lists[set], p.String())
	}
	for _, set := range slices.Sorted(maps.Keys(lists)) {
		text += fmt.Sprintf("; %s element inet %s %s { %s }", verb, table, set, strings.Join(lists[set], ", "))
	}
	return text
}

// keep puts the guard back when somebody killed its process. It ends with
// endGuard.
func (g *guard) keep() {
	defer close(g.ended)
	for {
		shell := g.shell // only keep changes it, under guardMu
		select {
		case <-g.quit:
			return
		case <-shell.exited:
		}
		select {
		case <-g.quit: // it ended because we ended it
			return
		default:
		}
		g.u.cfg.Logger.Warn("guard process ended; starting it again", "table", g.table, "err", shell.exitErr)
		for !g.revive() {
			select {
			case <-g.quit:
				return
			case <-time.After(time.Second):
			}
		}
	}
}

// revive tells whether keep has nothing more to revive for now.
func (g *guard) revive() bool {
	g.u.guardMu.Lock()
	defer g.u.guardMu.Unlock()
	select {
	case <-g.quit:
		return true
	default:
	}
	shell, err := startNFT(g.u)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err = shell.run(ctx, ruleset(g.table, g.ports, g.peers)); err == nil {
			g.shell = shell
			return true
		}
		_ = shell.close()
	}
	g.u.cfg.Logger.Warn("guard did not start", "table", g.table, "err", err)
	return false
}
