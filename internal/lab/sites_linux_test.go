package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// inquiry puts the proof of a path to the test: what the guests say on the overlay is
// secret, and a capture of all uplinks is searched for it at the end.
type inquiry struct {
	*system
	program string
	edit    func(*Host, *nodecfg.Config)
	k       *chat
	seen    *capture
	secret  []marker // said while the path was refused
	plain   []marker // said while the flow was bypassed
	filler  marker   // said in between
	started time.Time
}

// newInquiry builds a lab without nodes. edit changes the nodes' configurations.
func (s *system) newInquiry(edit func(*Host, *nodecfg.Config)) *inquiry {
	s.t.Helper()
	return &inquiry{system: s, program: s.buildNode(), edit: edit, filler: newMarker(), seen: s.startCapture(), started: time.Now()}
}

// restart starts the nodes (again) with that trust, and a new connection of guests.
func (p *inquiry) restart(trust nodecfg.Trust) {
	p.t.Helper()
	p.hangUp()
	var ends sync.WaitGroup
	for _, n := range p.nodes {
		ends.Go(func() { _ = n.proc.end(unix.SIGTERM, nodeGrace) }) // stop says what fails
	}
	ends.Wait()
	for _, n := range p.nodes {
		require.NoError(p.t, p.stop(n))
	}
	p.nodes = nil
	trust.MaxRTT = max(trust.MaxRTT, nodecfg.Duration(50*time.Millisecond)) // see nodeConfig
	require.NoError(p.t, p.startNodesAs(p.t.Context(), p.program, func(h *Host, c *nodecfg.Config) {
		c.Policy, c.Trust = nodecfg.Policy{Default: nodecfg.Bypass}, trust
		if p.edit != nil {
			p.edit(h, c)
		}
	}))
	p.k = p.startChat(p.filler)
	p.note("nodes started")
}

func (p *inquiry) hangUp() {
	if p.k != nil {
		_, _ = p.k.client.Close(), p.k.server.Close()
		p.k = nil
	}
}

func (p *inquiry) note(format string, args ...any) {
	p.t.Helper()
	p.t.Logf("%5.1fs: %s", time.Since(p.started).Seconds(), fmt.Sprintf(format, args...))
}

// proofLimit bounds how long a proof may take to be made, with the pause before.
const proofLimit = 25 * time.Second

// refused waits until the flow is on the overlay, and the client's node gives that
// reason, and has the guests say a secret then.
func (p *inquiry) refused(r bypass.Reason, why string) {
	p.t.Helper()
	p.await(proofLimit, "the node says: "+r.String(), func() bool { return p.refuses(r) })
	p.secret = append(p.secret, newMarker())
	p.change(p.k, p.secret[len(p.secret)-1])
	p.awaitRounds(10*time.Second, p.k, 20, "on the overlay")
	p.change(p.k, p.filler)
	require.True(p.t, p.refuses(r), "still: "+r.String())
	p.note("%s: %s", why, r)
}

func (p *inquiry) refuses(r bypass.Reason) bool {
	for _, h := range p.hosts {
		f, ok := p.flow(h.Index, p.k.from())
		// The server's own node may be waiting for the client's to ask.
		if !ok || f.State != nodeapi.FlowOverlay || h.Index == 1 && f.Reason != r.String() {
			return false
		}
	}
	return true
}

// bypassed waits until both nodes have the flow bypassed, and has the guests say
// something then.
func (p *inquiry) bypassed(why string) {
	p.t.Helper()
	p.awaitState(proofLimit, p.k.from(), "bypassed")
	p.plain = append(p.plain, newMarker())
	p.change(p.k, p.plain[len(p.plain)-1])
	p.awaitRounds(10*time.Second, p.k, 20, "on the bypass")
	p.change(p.k, p.filler)
	p.note("%s: bypassed", why)
}

// requireSecret ends the capture: no secret is in any frame, everything that was said
// on the bypass is (the capture sees what there is), and no frame is a guest's own.
func (p *inquiry) requireSecret() {
	p.t.Helper()
	frames := p.seen.all(p.t)
	has := func(what []byte) bool {
		for _, f := range frames {
			if bytes.Contains(f, what) {
				return true
			}
		}
		return false
	}
	for i, m := range p.secret {
		require.False(p.t, has(m[:]), "secret %d of %d is in clear", i+1, len(p.secret))
	}
	for i, m := range p.plain {
		require.True(p.t, has(m[:]), "what was said on bypass %d of %d was captured", i+1, len(p.plain))
	}
	for _, h := range p.hosts {
		for _, g := range h.Containers {
			require.False(p.t, has(g.MAC[:]), "the MAC of %s", g.Name)
		}
	}
	p.note("%d frames captured; %d secrets in none of them, %d markers in clear", len(frames), len(p.secret), len(p.plain))
}

// nft gives a namespace a table of that name, in the place of an earlier one; "" takes
// it away.
func (p *inquiry) nft(ns, family, table, chains string) {
	p.t.Helper()
	name := family + " " + table
	text := fmt.Sprintf("add table %s\ndelete table %s\n", name, name)
	if chains != "" {
		text += fmt.Sprintf("table %s {\n%s\n}\n", name, chains)
	}
	_, err := p.in(p.t.Context(), ns, "nft", text)
	require.NoError(p.t, err)
}

// dropped is what the counters of a table count.
func (p *inquiry) dropped(ns, family, table string) (n int) {
	p.t.Helper()
	text, err := p.in(p.t.Context(), ns, "nft", "list", "table", family, table)
	require.NoError(p.t, err)
	for _, part := range strings.Split(text, "counter packets ")[1:] {
		count, _, _ := strings.Cut(part, " ")
		i, err := strconv.Atoi(count)
		require.NoError(p.t, err)
		n += i
	}
	return n
}

// silenceUntil is the longest time for which nothing that the guests said came back,
// from now until ok, and some time after.
func (p *inquiry) silenceUntil(what string, ok func() bool) time.Duration {
	p.t.Helper()
	last, rounds, longest := time.Now(), p.k.said(), time.Duration(0)
	look := func() uint64 {
		p.requireChatting(p.k)
		n := p.k.said()
		if now := time.Now(); n != rounds {
			longest, last, rounds = max(longest, now.Sub(last)), now, n
		}
		return n
	}
	p.await(proofLimit, what, func() bool {
		look()
		return ok()
	})
	enough := look() + 20
	p.await(15*time.Second, "the guests' connection goes on", func() bool { return look() >= enough })
	return longest
}

// isAnywhere tells whether any node says that of the flow.
func (p *inquiry) isAnywhere(state string) bool {
	for _, h := range p.hosts {
		if f, ok := p.flow(h.Index, p.k.from()); ok && f.State == state {
			return true
		}
	}
	return false
}

// proofs is how often a host's node found the path proven.
func (p *inquiry) proofs(host int) int {
	text, err := os.ReadFile(p.hosts[host-1].Log())
	require.NoError(p.t, err)
	return strings.Count(string(text), "path proven")
}

// serveSTUN answers STUN binding requests (RFC 8489) in a namespace.
func (p *inquiry) serveSTUN(ns string, at netip.AddrPort) {
	p.t.Helper()
	c := udp(p.t, ns, at)
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil || n < 20 || be.Uint16(b) != 1 {
				continue
			}
			_, _ = c.WriteToUDPAddrPort(stunAnswer(b[:20], from), from)
		}
	}()
}

// stunAnswer is a success response with an XOR-MAPPED-ADDRESS.
func stunAnswer(request []byte, from netip.AddrPort) []byte {
	a := append([]byte{1, 1, 0, 12}, request[4:20]...)
	a = be.AppendUint16(append(a, 0, 0x20, 0, 8, 0, 1), from.Port()^be.Uint16(request[4:]))
	ip := from.Addr().Unmap().As4()
	return be.AppendUint32(a, be.Uint32(ip[:])^be.Uint32(request[4:]))
}

func TestSTUNAnswer(t *testing.T) {
	request := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, "transaction!"...)
	a := stunAnswer(request, netip.MustParseAddrPort("192.0.2.1:32853")) // RFC 5769, section 2.2
	require.Equal(t, append(append([]byte{1, 1, 0, 12}, request[4:]...), 0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43), a)
}
