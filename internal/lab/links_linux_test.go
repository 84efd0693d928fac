package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// healBound is within what a link is to carry again when its path is gone. What TCP adds,
// whose timer backs off, is the stream's own slack.
const healBound = 3 * time.Second

// onOverlay is a lab whose nodes have no bypass, listen on all addresses, and carry a stream.
type onOverlay struct {
	*system
	k *stream
}

func newOnOverlay(t *testing.T, edit func(*Host, *nodecfg.Config)) *onOverlay {
	t.Helper()
	s := newSystem(t, "nft")
	for _, h := range s.hosts { // or the link may be by IPv6, and need not care
		require.NoError(t, s.ip(t.Context(), h.Namespace, fmt.Sprintf("addr del %s/%d dev %s", h.Addr6, s.cfg.site(h.Index).prefix6().Bits(), bridge)))
	}
	require.NoError(t, s.startNodesAs(t.Context(), s.buildNode(), func(h *Host, c *nodecfg.Config) {
		c.Bridge, c.OpenFlow, c.OVSDB, c.Uplink = "", "", "", ""
		c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), overlayPort)
		c.Log = "debug"
		if edit != nil {
			edit(h, c)
		}
	}))
	k, err := s.startStream(Kind{}, 5300)
	require.NoError(t, err)
	t.Cleanup(k.abort)
	o := &onOverlay{s, k}
	o.flows("at the beginning")
	return o
}

// flows waits until the stream has gone on for a while.
func (o *onOverlay) flows(when string) {
	o.t.Helper()
	since := time.Now()
	o.await(20*time.Second, "the stream goes on, "+when, func() bool {
		require.NoError(o.t, o.k.broken())
		return o.k.arrived(since) > 100*streamChunk
	})
}

// link is what a host's node says of its link.
func (o *onOverlay) link(host int) nodeapi.Link {
	o.t.Helper()
	st, err := o.Node(host).Status(o.t.Context())
	require.NoError(o.t, err)
	require.Len(o.t, st.Peers, 1)
	if st.Peers[0].Link == nil {
		return nodeapi.Link{}
	}
	return *st.Peers[0].Link
}

// heals does something to the path, waits until both links are as they should be and the
// stream goes on, and tells how long it stood still.
func (o *onOverlay) heals(what string, do func(), is func(l nodeapi.Link, host int) bool) {
	o.t.Helper()
	since := time.Now()
	do()
	var seen time.Duration
	o.await(30*time.Second, what, func() bool {
		ok := is(o.link(1), 1) && is(o.link(2), 2)
		seen = time.Since(since)
		return ok
	})
	o.flows("after " + what)
	gap := o.k.gap(since)
	o.t.Logf("%s: seen after %v, the stream stood still for %v (TCP's own part: up to %v)", what,
		seen.Round(time.Millisecond), gap.Round(time.Millisecond), o.k.slack)
	require.Less(o.t, gap, healBound+o.k.slack, what)
}

// finish compares checksums.
func (o *onOverlay) finish() {
	o.t.Helper()
	there, back, err := o.k.finish(30 * time.Second)
	require.NoError(o.t, err)
	o.t.Logf("%d bytes there and %d back, checksums alike", there, back)
}

func (o *onOverlay) nft(ns, chains string) {
	o.t.Helper()
	text := "add table inet links\ndelete table inet links\n"
	if chains != "" {
		text += fmt.Sprintf("table inet links {\n%s\n}\n", chains)
	}
	_, err := o.in(o.t.Context(), ns, "nft", text)
	require.NoError(o.t, err)
}

// TestIntegrationRoaming: a host gets another address, another interface takes over, and both
// with signalling away; the same TCP connection carries on.
func TestIntegrationRoaming(t *testing.T) {
	beside(t)
	o := newOnOverlay(t, nil)
	h := o.hosts[1]
	at := o.cfg.site(h.Index)
	other := nth(at.Prefix, 77)
	session := o.link(1).Paths
	require.EqualValues(t, 1, session)

	o.heals("another address", func() {
		require.NoError(t, o.ips(t.Context(), h.Namespace,
			fmt.Sprintf("addr del %s/%d dev %s", h.Addr, at.Prefix.Bits(), bridge),
			fmt.Sprintf("addr add %s/%d dev %s", other, at.Prefix.Bits(), bridge)))
	}, func(l nodeapi.Link, host int) bool {
		return map[int]netip.AddrPort{1: l.Remote, 2: l.Local}[host].Addr() == other
	})
	require.Greater(t, o.link(1).Paths, session, "it is the same link")

	third := nth(at.Prefix, 78)
	require.NoError(t, o.ips(t.Context(), h.Provider,
		fmt.Sprintf("link add h2b type veth peer name eth2 netns %s", h.Namespace),
		fmt.Sprintf("link set h2b master %s up", at.bridge)))
	require.NoError(t, o.ips(t.Context(), h.Namespace, fmt.Sprintf("addr add %s/%d dev eth2 metric 500", third, at.Prefix.Bits()), "link set eth2 up"))
	// The first host's switch would lose UDP super-frames; br0 cuts them.
	_, err := o.in(t.Context(), h.Namespace, "ethtool", "-K", "eth2", "tx-udp-segmentation", "off")
	require.NoError(t, err)
	require.NoError(t, o.finishFrames(t.Context(), h.Namespace, "eth2"))
	o.flows("while an interface is plugged in")
	require.Equal(t, other, o.link(2).Local.Addr(), "the path in use is left alone")
	o.heals("another interface", func() {
		require.NoError(t, o.ip(t.Context(), h.Namespace, "link set "+bridge+" down"))
	}, func(l nodeapi.Link, host int) bool {
		return map[int]netip.AddrPort{1: l.Remote, 2: l.Local}[host].Addr() == third
	})

	// Signalling is away while the address changes, for longer than the link lives.
	fourth := nth(at.Prefix, 79)
	o.nft(h.Namespace, "chain out { type filter hook output priority 0; ip daddr "+o.hosts[0].Addr.String()+" tcp dport "+fmt.Sprint(signalPort)+" drop; }")
	require.NoError(t, o.ips(t.Context(), h.Namespace,
		fmt.Sprintf("addr del %s/%d dev eth2", third, at.Prefix.Bits()), fmt.Sprintf("addr add %s/%d dev eth2", fourth, at.Prefix.Bits())))
	o.await(20*time.Second, "the link is lost", func() bool { return !o.link(2).Local.IsValid() })
	since := time.Now()
	o.nft(h.Namespace, "")
	o.await(20*time.Second, "the link is back", func() bool { return o.link(2).Local.Addr() == fourth && o.link(1).Remote.Addr() == fourth })
	linked := time.Since(since)
	o.flows("after signalling came back")
	t.Logf("signalling back: linked after %v, the stream stood still for %v more (TCP's own part: up to %v)",
		linked.Round(time.Millisecond), o.k.gap(since).Round(time.Millisecond), o.k.slack)
	require.Less(t, linked, healBound+time.Second) // node status is asked 50 times a second, at best
	o.finish()
}

// turnEnv makes the test binary a TURN server at that address.
const turnEnv = "VIAS_TEST_TURN"

const turnSecret = "shared by the lab"

// turnServer serves TURN over UDP and TCP until it is killed.
func turnServer(at string) error {
	udp, err := net.ListenPacket("udp4", at)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp4", at)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	relays := func() turn.RelayAddressGenerator {
		return &turn.RelayAddressGeneratorStatic{RelayAddress: net.ParseIP(host), Address: host}
	}
	s, err := turn.NewServer(turn.ServerConfig{
		Realm: "lab", AuthHandler: turn.LongTermTURNRESTAuthHandler(turnSecret, nil),
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: udp, RelayAddressGenerator: relays()}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: tcp, RelayAddressGenerator: relays()}},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	select {}
}

// TestIntegrationRelay: UDP between the hosts is blocked, so the link goes by a relay; then it
// is not, and the link is direct; then it is again. The same TCP connection carries on.
func TestIntegrationRelay(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) { testRelay(t, transport) })
	}
}

func testRelay(t *testing.T, transport string) {
	beside(t)
	o := &onOverlay{}
	block := func(on bool) {
		for _, h := range o.hosts {
			chains := ""
			if on {
				var rules strings.Builder
				for _, p := range o.hosts {
					fmt.Fprintf(&rules, "ip saddr %s udp dport %d drop; ip6 saddr %s udp dport %d drop; ", p.Addr, overlayPort, p.Addr6, overlayPort)
				}
				if transport == "tcp" { // as where nothing but TCP gets out
					fmt.Fprintf(&rules, "udp dport %d drop; ", overlayPort)
				}
				chains = "chain in { type filter hook input priority 0; " + rules.String() + " }"
			}
			o.nft(h.Namespace, chains)
		}
	}
	s := newSystem(t, "nft")
	o.system = s
	gateway := netip.AddrPortFrom(s.cfg.site(1).gateway(), 3478)
	server, err := s.spawn(s.hosts[0].Provider, nil, os.Stderr, os.Stderr, "env", turnEnv+"="+gateway.String(), os.Args[0])
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.stop(server) })
	s.await(10*time.Second, "the TURN server listens", func() bool { return listening(server.proc.PID, gateway.Port()) })
	block(true)
	program := s.buildNode()
	require.NoError(t, s.startNodesAs(t.Context(), program, func(_ *Host, c *nodecfg.Config) {
		c.Bridge, c.OpenFlow, c.OVSDB, c.Uplink = "", "", "", ""
		c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), overlayPort)
		c.Log = "debug"
		c.Relays = []nodecfg.Relay{{URL: "turn:" + gateway.String() + "?transport=" + transport, Secret: turnSecret}}
	}))
	out, err := s.in(t.Context(), s.hosts[0].Namespace, program, "check", "-config", s.hosts[0].Config())
	require.Contains(t, out, "ok   relay turn:"+gateway.String(), "%v", err)
	require.Equal(t, "relay", o.link(1).Kind)
	if o.k, err = s.startStream(Kind{}, 5300); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.k.abort)
	o.flows("by the relay")
	for i := range s.hosts {
		l := o.link(i + 1)
		require.Equal(t, "relay", l.Kind)
		require.NotZero(t, l.Epoch, "data records go by the relay")
	}
	kind := func(want string) func(nodeapi.Link, int) bool {
		return func(l nodeapi.Link, _ int) bool { return l.Kind == want }
	}
	o.heals("relay to direct", func() { block(false) }, kind("host"))
	paths := o.link(1).Paths
	o.heals("direct to relay", func() { block(true) }, kind("relay"))
	require.Greater(t, o.link(1).Paths, paths, "it is the same link")
	o.heals("relay to direct, again", func() { block(false) }, kind("host"))
	o.finish()
}
