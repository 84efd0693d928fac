package bypass

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

func TestMessagesRoundTrip(t *testing.T) {
	c, err := newCodec()
	require.NoError(t, err)
	a, b := netip.MustParseAddrPort("10.0.0.1:61441"), netip.MustParseAddrPort("10.0.0.2:61442")
	a6, b6 := netip.MustParseAddrPort("[fd00::1]:61441"), netip.MustParseAddrPort("[2001:db8::2]:61442")
	for _, m := range []message{
		{Kind: msgOffer, ID: 1 << 63, Epoch: 5, PeerEpoch: 6, Proto: TCP, Src: a, Dst: b, SrcMAC: macA, DstMAC: macB, Local: a, Remote: netip.AddrPortFrom(b.Addr(), 0), Proof: 9},
		{Kind: msgAccept, ID: 2, Proto: UDP, Src: a, Dst: b, Local: a, Remote: b},
		{Kind: msgOffer, Family: IPv6, ID: 2, Proto: UDP, Src: a6, Dst: b6, Local: a6, Remote: b6},
		{Kind: msgChallenge, Family: IPv6, ID: 4, Nonce: make([]byte, 32), Addr: a6.Addr(), MTU: 1280, Lease: 30},
		{Kind: msgClose, Family: IPv6, ID: 3}, {Kind: msgClose, ID: 3, Reason: ReasonPolicy}, {Kind: msgWant, Epoch: 1},
		{Kind: msgAlive, IDs: make([]uint64, maxAlive)}, {Kind: msgSync},
		{Kind: msgChallenge, ID: 4, Nonce: make([]byte, 32), Addr: a.Addr(), MTU: 1500, Domain: "dc1", Lease: 30},
		{Kind: msgResponse, ID: 4, Nonce: make([]byte, 32), Addr: a.Addr(), MTU: 1500, Ports: []uint16{1, 2}, Lease: 30},
		{Kind: msgReady, ID: 4, Ports: []uint16{1, 2}}, {Kind: msgResult, MTU: 1500, TCP: true, RTT: 5},
	} {
		b, err := c.encode(m)
		require.NoError(t, err)
		got, err := c.decode(b)
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
}

func TestMessagesRefused(t *testing.T) {
	c, err := newCodec()
	require.NoError(t, err)
	a4, a6, mapped := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[::ffff:10.0.0.1]:1")
	for name, m := range map[string]message{
		"no kind": {}, "unknown kind": {Kind: kinds}, "offer without addresses": {Kind: msgOffer, Proto: TCP},
		"offer for ICMP": {Kind: msgOffer, Proto: 1}, "IPv6 in an offer over IPv4": {Kind: msgOffer, Proto: TCP, Src: a6, Dst: a6, Local: a6, Remote: a6},
		"IPv4 in an offer over IPv6":            {Kind: msgOffer, Family: IPv6, Proto: TCP, Src: a6, Dst: a6, Local: a4, Remote: a6},
		"IPv4 in an accept over IPv6":           {Kind: msgAccept, Family: IPv6, Proto: TCP, Src: a4, Dst: a6, Local: a6, Remote: a6},
		"IPv4 in IPv6":                          {Kind: msgOffer, Family: IPv6, Proto: TCP, Src: a6, Dst: mapped, Local: a6, Remote: a6},
		"an address with a zone":                {Kind: msgChallenge, Family: IPv6, Nonce: make([]byte, 32), Addr: netip.MustParseAddr("fd00::1%eth0"), MTU: 1500, Lease: 30},
		"IPv4 in a challenge over IPv6":         {Kind: msgChallenge, Family: IPv6, Nonce: make([]byte, 32), Addr: a4.Addr(), MTU: 1500, Lease: 30},
		"IPv6 in a challenge over IPv4":         {Kind: msgChallenge, Nonce: make([]byte, 32), Addr: a6.Addr(), MTU: 1500, Lease: 30},
		"an MTU below IPv6's least":             {Kind: msgChallenge, Family: IPv6, Nonce: make([]byte, 32), Addr: a6.Addr(), MTU: 1279, Lease: 30},
		"IPv4, which is said by saying nothing": {Kind: msgWant, Family: IPv4},
		"another family":                        {Kind: msgWant, Family: 5},
		"short nonce":                           {Kind: msgChallenge, Nonce: make([]byte, 31), Addr: netip.MustParseAddr("10.0.0.1"), MTU: 1500, Lease: 30},
		"tiny MTU":                              {Kind: msgChallenge, Nonce: make([]byte, 32), Addr: netip.MustParseAddr("10.0.0.1"), MTU: 10, Lease: 30},
		"no lease":                              {Kind: msgChallenge, Nonce: make([]byte, 32), Addr: netip.MustParseAddr("10.0.0.1"), MTU: 1500},
		"no ports":                              {Kind: msgReady}, "too many transactions": {Kind: msgAlive, IDs: make([]uint64, maxAlive+1)},
	} {
		b, err := c.encode(m)
		require.NoError(t, err)
		_, err = c.decode(b)
		require.ErrorIs(t, err, errMessage, name)
	}
	_, err = c.decode(make([]byte, maxMessage+1))
	require.ErrorIs(t, err, errMessage)
	b, _ := c.encode(message{Kind: msgReject, Reason: 250})
	m, err := c.decode(b)
	require.NoError(t, err)
	require.Equal(t, ReasonPeerFailed, m.Reason, "a newer peer's reason")
}

func FuzzMessage(f *testing.F) {
	c, err := newCodec()
	require.NoError(f, err)
	b, _ := c.encode(message{Kind: msgChallenge, ID: 4, Nonce: make([]byte, 32), Addr: netip.MustParseAddr("10.0.0.1"), MTU: 1500, Lease: 30})
	f.Add(b)
	b, _ = c.encode(message{Kind: msgAlive, IDs: []uint64{1, 1 << 63}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := c.decode(b)
		if err == nil {
			require.LessOrEqual(t, len(m.IDs), maxAlive)
			require.Less(t, m.Kind, kinds)
			require.Less(t, m.Reason, reasons)
		}
	})
}

// ways are from one host to the other, over each family.
var ways = [][2]netip.AddrPort{
	{netip.MustParseAddrPort("10.0.0.1:65500"), netip.MustParseAddrPort("10.0.0.2:65501")},
	{netip.MustParseAddrPort("[fd0a::1]:65500"), netip.MustParseAddrPort("[fd0a::2]:65501")},
}

func testKey(t testing.TB, domain string) probeKey {
	e := func(i byte) proofEnd {
		return proofEnd{overlay.PeerID{i}, uint64(i), netip.AddrFrom4([4]byte{10, 0, 0, i}), make([]byte, 32)}
	}
	k, err := newProbeKey(e(1), e(2), "net", domain)
	require.NoError(t, err)
	return k
}

// Whatever is changed on the way, the probe no longer opens.
func TestProbeIsBoundToItsWay(t *testing.T) {
	k := testKey(t, "")
	for i := range 4 {
		proto, src, dst := []Proto{UDP, TCP}[i%2], ways[i/2][0], ways[i/2][1]
		p := probe{proto: proto, src: src, dst: dst, ack: proto == TCP}
		k.seal(&p, probeRequest, 77, 5, 1500)
		f, err := p.frame(macA, macB)
		require.NoError(t, err)
		require.Len(t, f, tap.HeaderLen+1500)
		got, err := parseProbe(f)
		require.NoError(t, err)
		require.EqualValues(t, probeTTL, got.ttl)
		what, round, n, ok := k.open(&got, src, dst)
		require.True(t, ok)
		require.Equal(t, [3]any{byte(probeRequest), uint64(77), uint32(5)}, [3]any{what, round, n})

		other := netip.AddrPortFrom(src.Addr(), 1)
		_, _, _, ok = k.open(&got, other, dst)
		require.False(t, ok, "another port")
		_, _, _, ok = k.open(&got, dst, src)
		require.False(t, ok, "reflected")
		_, _, _, ok = k.open(&got, src, netip.AddrPortFrom(dst.Addr().Next(), dst.Port()))
		require.False(t, ok, "to another address")
		_, _, _, ok = testKey(t, "x").open(&got, src, dst)
		require.False(t, ok, "another domain's key")
		cut := got
		cut.size--
		_, _, _, ok = k.open(&cut, src, dst)
		require.False(t, ok, "another length")
		swapped := got
		swapped.proto = UDP + TCP - proto
		_, _, _, ok = k.open(&swapped, src, dst)
		require.False(t, ok, "another protocol")
		for i := range got.text {
			got.text[i] ^= 1
			_, _, _, ok = k.open(&got, src, dst)
			require.False(t, ok, "byte %d flipped", i)
			got.text[i] ^= 1
		}
	}
}

func FuzzProbe(f *testing.F) {
	k := testKey(f, "")
	for i := range 4 {
		p := probe{proto: []Proto{UDP, TCP}[i%2], src: ways[i/2][0], dst: ways[i/2][1], ack: i%2 == 1}
		k.seal(&p, probeReply, 1, 2, 100)
		frame, _ := p.frame(macA, macB)
		f.Add(frame)
		f.Add(append(frame, 0, 0, 0, 0))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, err := parseProbe(frame)
		if err != nil {
			return
		}
		require.LessOrEqual(t, p.head()+len(p.text), p.size, "options apart, there is nothing else")
		require.LessOrEqual(t, p.size, len(frame)-tap.HeaderLen)
		_, _, _, ok := k.open(&p, p.src, p.dst)
		require.True(t, !ok || len(p.text) >= probeText)
	})
}

func FuzzOrphan(f *testing.F) {
	p := probe{proto: UDP, src: netip.MustParseAddrPort("10.0.0.1:61441"), dst: netip.MustParseAddrPort("10.0.0.2:61442"), size: 600}
	frame, err := p.frame(macA, macB)
	require.NoError(f, err)
	src, dst, ok := parseOrphan(frame[:40]) // a switch sends up no more than the head
	require.True(f, ok)
	require.Equal(f, [2]netip.Addr{p.src.Addr(), p.dst.Addr()}, [2]netip.Addr{src, dst})
	f.Add(frame)
	p.src, p.dst = ways[1][0], ways[1][1]
	frame, err = p.frame(macA, macB)
	require.NoError(f, err)
	src, dst, ok = parseOrphan(frame[:62])
	require.True(f, ok)
	require.Equal(f, [2]netip.Addr{p.src.Addr(), p.dst.Addr()}, [2]netip.Addr{src, dst})
	_, _, ok = parseOrphan(frame[:53])
	require.False(f, ok)
	f.Add(frame)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if src, dst, ok := parseOrphan(frame); ok {
			require.Equal(t, FamilyOf(src), FamilyOf(dst))
		}
	})
}

func TestPorts(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPorts(PortRange{0xffc0, 0xffc0}, randomUint64) // 64 ports: 60 for flows, 4 for probes
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	seen := map[tuple]bool{}
	for range 60 * 60 / 2 { // half of all: chance, and then looking for it, finds the others
		tu, ok := p.propose(TCP, local, remote, now)
		require.True(t, ok)
		for _, at := range []netip.AddrPort{tu.local, tu.remote} {
			require.True(t, p.flowPort(at.Port()))
			require.False(t, p.probePort(at.Port()))
		}
		require.Equal(t, []netip.Addr{local, remote}, []netip.Addr{tu.local.Addr(), tu.remote.Addr()})
		require.False(t, seen[tu], "taken twice")
		seen[tu] = true
	}
	for ours := range uint16(60) { // and all the rest
		for theirs := range uint16(60) {
			p.take(tuple{TCP, netip.AddrPortFrom(local, 0xffc0+ours), netip.AddrPortFrom(remote, 0xffc0+theirs)}, now)
		}
	}
	_, ok := p.propose(TCP, local, remote, now)
	require.False(t, ok, "all are taken")
	_, ok = p.propose(UDP, local, remote, now)
	require.True(t, ok, "another protocol is another tuple")
	tu := tuple{TCP, netip.AddrPortFrom(local, 65480), netip.AddrPortFrom(remote, 65481)}
	p.free(tu, now.Add(time.Minute))
	require.False(t, p.take(tu, now.Add(time.Minute-1)), "it rests")
	p.sweep(now.Add(time.Minute - 1))
	require.True(t, p.take(tu, now.Add(time.Minute)))
	p.free(tu, now.Add(time.Minute))
	p.sweep(now.Add(time.Hour))
	require.Len(t, p.used, 3600, "3,599 live flows and UDP; what has rested is forgotten")
	for range 100 {
		for _, port := range p.probe(2, nil) {
			require.True(t, p.probePort(port))
		}
		require.NotEqual(t, p.probe(2, nil)[0], p.probe(2, nil)[1]+60)
	}
	two := p.probe(2, nil)
	require.NotEqual(t, two[0], two[1])
}

func TestTrust(t *testing.T) {
	route := func(local string, onLink bool) Route {
		return Route{Local: netip.MustParseAddr(local), OnLink: onLink}
	}
	pre := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for name, c := range map[string]struct {
		trust  Trust
		remote string
		route  Route
		want   Reason
	}{
		"private, on link":              {Trust{}, "10.0.0.2", route("10.0.0.1", true), ReasonNone},
		"private, routed":               {Trust{}, "10.1.0.2", route("10.0.0.1", false), ReasonUntrusted},
		"global":                        {Trust{}, "192.0.2.7", route("192.0.2.1", true), ReasonUntrusted},
		"global, listed":                {Trust{Prefixes: pre("192.0.2.0/24")}, "192.0.2.7", route("192.0.2.1", false), ReasonNone},
		"global, we are not listed":     {Trust{Prefixes: pre("192.0.2.0/25")}, "192.0.2.7", route("198.51.100.1", false), ReasonUntrusted},
		"private, not listed":           {Trust{Prefixes: pre("10.0.0.0/24")}, "10.0.1.2", route("10.0.0.1", true), ReasonUntrusted},
		"empty list trusts nobody":      {Trust{Prefixes: []netip.Prefix{}}, "10.0.0.2", route("10.0.0.1", true), ReasonUntrusted},
		"one host":                      {Trust{}, "10.0.0.1", route("10.0.0.1", true), ReasonSameHost},
		"loopback":                      {Trust{}, "127.0.0.2", route("127.0.0.1", true), ReasonUntrusted},
		"link-local":                    {Trust{}, "169.254.1.1", route("169.254.1.2", true), ReasonUntrusted},
		"shared address space (CGNAT)":  {Trust{}, "100.64.0.2", route("100.64.0.1", true), ReasonUntrusted},
		"ULA, on link":                  {Trust{}, "fd0a::2", route("fd0a::1", true), ReasonNone},
		"ULA, routed":                   {Trust{}, "fd0a:1::2", route("fd0a::1", false), ReasonUntrusted},
		"IPv6 global":                   {Trust{}, "2001:db8::2", route("2001:db8::1", true), ReasonUntrusted},
		"IPv6 global, listed":           {Trust{Prefixes: pre("2001:db8::/64")}, "2001:db8::2", route("2001:db8::1", false), ReasonNone},
		"IPv6 link-local":               {Trust{}, "fe80::2", route("fe80::1", true), ReasonUntrusted},
		"IPv6 link-local, listed":       {Trust{Prefixes: pre("fe80::/10")}, "fe80::2", route("fe80::1", true), ReasonUntrusted},
		"IPv6 loopback":                 {Trust{}, "::1", route("fd0a::1", true), ReasonUntrusted},
		"with a zone":                   {Trust{}, "fd0a::2%eth0", route("fd0a::1", true), ReasonUntrusted},
		"IPv4 in IPv6 is not IPv4 here": {Trust{}, "::ffff:10.0.0.2", route("10.0.0.1", true), ReasonUntrusted},
	} {
		require.Equal(t, c.want.String(), c.trust.check(netip.MustParseAddr(c.remote), c.route).String(), name)
	}
	bad := Trust{MaxHops: 40}
	require.Error(t, bad.normal())
}

// TestHome: which of our addresses is offered over which family, or why none is.
func TestHome(t *testing.T) {
	for name, c := range map[string]struct {
		trust, addrs string
		four, six    any
	}{
		"no address":              {"", "", ReasonNoRoute, ReasonNoRoute},
		"IPv4":                    {"", "10.0.0.1/24", "10.0.0.1", ReasonFamily},
		"link-local is none":      {"", "10.0.0.1/24 fe80::1/64", "10.0.0.1", ReasonFamily},
		"and not by being listed": {"fe80::/10 10.0.0.0/8", "10.0.0.1/24 fe80::1/64", "10.0.0.1", ReasonFamily},
		"ULA behind others":       {"", "192.0.2.1/24 10.0.0.1/24 fe80::1/64 2001:db8::1/64 fd00::1/64 fd00::2/64", "10.0.0.1", "fd00::1"},
		"global ones are not":     {"", "192.0.2.1/24 2001:db8::1/64", ReasonUntrusted, ReasonUntrusted},
		"unless they are listed":  {"2001:db8::/32 192.0.2.0/24", "192.0.2.1/24 2001:db8::1/64", "192.0.2.1", "2001:db8::1"},
		"only what is listed":     {"2001:db8::/32", "10.0.0.1/24 fd00::1/64 2001:db8::1/64", ReasonUntrusted, "2001:db8::1"},
		"IPv4 in IPv6 is neither": {"", "::ffff:10.0.0.1/120", ReasonFamily, ReasonFamily},
		"IPv6 only":               {"", "fd00::1/64", ReasonFamily, "fd00::1"},
	} {
		list := func(s string) (out []netip.Prefix) {
			for _, p := range strings.Fields(s) {
				out = append(out, netip.MustParsePrefix(p))
			}
			return out
		}
		trust := Trust{Prefixes: list(c.trust)}
		for i, want := range []any{c.four, c.six} {
			switch got := trust.home(list(c.addrs), families[i]); want := want.(type) {
			case Reason:
				require.Equal(t, home{why: want}, got, "%s, %v", name, families[i])
			case string:
				require.Equal(t, home{addr: netip.MustParseAddr(want)}, got, "%s, %v", name, families[i])
			}
		}
	}
}

// TestCompact: what is kept of a flow is all of it, in 16 bytes, and the same for the same.
func TestCompact(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(fiveTuple{}), uintptr(16))
	require.Equal(t, Flow{}, fiveTuple{}.flow())
	seen := map[fiveTuple]Flow{}
	for _, proto := range []Proto{TCP, UDP} {
		for _, f := range []Flow{flow4, flow6, flow4.Reverse(), flow6.Reverse(),
			{Src: flow4.Dst, Dst: netip.AddrPortFrom(flow4.Src.Addr(), 80)}, {Src: ways[0][0], Dst: ways[0][1]}} {
			f.Proto = proto
			c, ok := compact(f)
			require.True(t, ok)
			require.Equal(t, f, c.flow())
			require.Equal(t, f.Reverse(), c.reverse().flow())
			back, _ := compact(f.Reverse())
			require.Equal(t, back, c.reverse())
			require.NotEqual(t, c, back)
			require.NotContains(t, seen, c)
			seen[c] = f
		}
	}
	for _, bad := range [][2]string{{"10.0.0.1:1", "[fd00::1]:1"}, {"[fd00::1]:1", "10.0.0.1:1"}, {"[fd00::1]:1", "[fe80::1]:1"},
		{"[fe80::1]:1", "[fd00::1]:1"}, {"[::ffff:10.0.0.1]:1", "[fd00::1]:1"}, {"10.0.0.1:1", "224.0.0.1:1"}, {"10.0.0.1:1", "10.0.0.1:2"},
		{"[fd00::1%eth0]:1", "[fd00::2]:1"}, {"[fd00::1]:1", "[ff02::2]:1"}, {"127.0.0.1:1", "10.0.0.1:1"}} {
		_, ok := compact(Flow{TCP, netip.MustParseAddrPort(bad[0]), netip.MustParseAddrPort(bad[1])})
		require.False(t, ok, "%v", bad)
	}
	_, ok := compact(Flow{})
	require.False(t, ok)
}

func TestEveryReasonHasWords(t *testing.T) {
	seen := map[string]Reason{}
	for r := Reason(1); r < reasons; r++ {
		require.NotEmpty(t, r.String(), "reason %d", r)
		_, dup := seen[r.String()]
		require.False(t, dup, r.String())
		seen[r.String()] = r
	}
	require.Empty(t, ReasonNone.String())
}

func TestHostConfigs(t *testing.T) {
	good := func() HostConfig {
		return HostConfig{Datapath: nil, Underlay: nil}
	}
	_, err := NewHost(good())
	require.ErrorContains(t, err, "datapath")
}
