package lab

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

const (
	talkPort = 5500  // the server's, of every kind
	talkRate = 300e3 // bytes a second, each way, of UDP
	talkEnd  = time.Minute
)

// talk is a transfer of one kind between the first containers, both ways at once, whose
// end says whether it arrived whole.
type talk struct {
	Kind
	pair    pair
	stream  *stream    // of TCP
	packets *datagrams // of UDP
}

// startTalks begins one of each kind; UDP's datagrams have packets of that many bytes.
func (s *system) startTalks(packet int) (all []*talk) {
	s.t.Helper()
	for _, k := range Kinds() {
		k := &talk{Kind: k, pair: s.pair(k, Bypass)}
		k.pair.port = talkPort
		var err error
		if k.UDP {
			k.packets, err = s.startDatagrams(k.Kind, talkPort, packet-k.headers())
			require.NoError(s.t, err, k.String())
			k.packets.rate.Store(talkRate / int64(packet))
			s.t.Cleanup(k.packets.abort)
		} else {
			k.stream, err = s.startStream(k.Kind, talkPort)
			require.NoError(s.t, err, k.String())
			s.t.Cleanup(k.stream.abort)
		}
		k.pair.from = k.from().Port()
		all = append(all, k)
	}
	return all
}

// headers are those of IP and of TCP or UDP, without options.
func (k Kind) headers() int {
	n := 20 // of TCP, and of IPv4
	if k.UDP {
		n = 8
	}
	if k.IPv6 {
		return n + 40
	}
	return n + 20
}

func (k *talk) from() netip.AddrPort {
	if k.UDP {
		return k.packets.from()
	}
	return k.stream.from()
}

// ends are its sockets: the client's and the server's.
func (k *talk) ends() [2]syscall.Conn {
	if k.UDP {
		return [2]syscall.Conn{k.packets.client, k.packets.server}
	}
	return [2]syscall.Conn{k.stream.client, k.stream.server}
}

// finish ends it and requires that it arrived whole: every byte of TCP, and of UDP nothing
// but what was sent, once. Datagrams are lost while a switch of a busy machine does not
// run, and while a path is silent that nobody has left yet; most must arrive.
func (s *system) finish(k *talk) {
	s.t.Helper()
	if !k.UDP {
		there, back, err := k.stream.finish(talkEnd)
		require.NoError(s.t, err, k.String())
		s.t.Logf("%s: %d and %d bytes, the checksums are equal", k, there, back)
		return
	}
	t, err := k.packets.finish(s.t.Context())
	require.NoError(s.t, err, k.String())
	s.t.Logf("%s: %d datagrams there, of which %d are lost, and %d back, of which %d", k, t[0].Sent, t[0].Sent-t[0].Arrived, t[1].Sent, t[1].Sent-t[1].Arrived)
	for _, way := range t {
		require.Less(s.t, way.lost(), 0.5, k.String())
		require.Greater(s.t, way.Sent, 50, k.String())
	}
}

// way is what the counters say at one moment: the bytes of each talk's rules, the lesser
// of both ends, and those of the TAPs.
type way struct {
	rules map[Kind][2]map[string]uint64
	taps  [2]uint64
}

func (s *system) lookAt(talks []*talk) way {
	s.t.Helper()
	w := way{rules: map[Kind][2]map[string]uint64{}}
	var dumps [2][]dumped
	for i := range dumps {
		text, err := s.ovs[i].Ofctl(s.t.Context(), "dump-flows", s.workloads())
		require.NoError(s.t, err)
		dumps[i] = parseFlows(text)
		tap, err := s.tapCounters(s.t.Context(), i)
		require.NoError(s.t, err)
		w.taps[i] = tap.bytes
	}
	for _, k := range talks {
		w.rules[k.Kind] = [2]map[string]uint64{counters(dumps[0], k.pair.isOutbound), counters(dumps[1], k.pair.isInbound)}
	}
	return w
}

// moved is what each talk's rules and what the TAPs counted since.
func (w way) moved(before way) (rules map[Kind]uint64, least, most, taps uint64) {
	rules, least = map[Kind]uint64{}, ^uint64(0)
	for k, now := range w.rules {
		n := min(grown(before.rules[k][0], now[0]), grown(before.rules[k][1], now[1]))
		rules[k] = n
		least, most = min(least, n), max(most, n)
	}
	return rules, least, most, min(w.taps[0]-before.taps[0], w.taps[1]-before.taps[1])
}

// requireWay waits until both nodes say that of all talks, and the counters of both
// switches and both TAPs say so too.
func (s *system) requireWay(talks []*talk, m Mode) {
	s.t.Helper()
	const much = 100 << 10 // bytes that show where a talk goes
	state := map[Mode]string{Overlay: nodeapi.FlowOverlay, Bypass: nodeapi.FlowBypassed}[m]
	for _, k := range talks {
		s.awaitState(proofLimit, k.from(), state)
	}
	before := s.lookAt(talks)
	var rules map[Kind]uint64
	var taps uint64
	s.await(15*time.Second, "the counters say "+m.String(), func() bool {
		now := s.lookAt(talks)
		var fewest, most uint64
		rules, fewest, most, taps = now.moved(before)
		switch {
		case m == Bypass && fewest >= much && float64(taps) < least*float64(fewest)*float64(len(talks)):
			return true
		case m == Overlay && taps >= much*uint64(len(talks)) && float64(most) < least*float64(taps):
			return true
		case max(most, taps) >= 10*much: // the last packets of the other way were in between
			before = now
		}
		return false
	})
	s.t.Logf("%s: bytes by rules %v, by the TAPs %d", m, rules, taps)
}

// startPatientNodes starts nodes that bypass everything, over paths that may be slow: how
// soon a busy machine answers is of no interest here.
func (s *system) startPatientNodes() {
	s.t.Helper()
	require.NoError(s.t, s.startNodesAs(s.t.Context(), s.buildNode(), func(_ *Host, c *nodecfg.Config) {
		c.Policy, c.Trust = nodecfg.Policy{Default: nodecfg.Bypass}, nodecfg.Trust{MaxRTT: nodecfg.Duration(time.Second)}
	}))
}

// requireMoves: all talks are bypassed, fall back to the overlay, and return.
func (s *system) requireMoves(talks []*talk) {
	s.t.Helper()
	s.requireWay(talks, Bypass)
	s.policy(1, nodecfg.Overlay)
	s.requireWay(talks, Overlay)
	s.policies(nodecfg.Bypass)
	s.requireWay(talks, Bypass)
}

// setTOS gives a socket's packets that DSCP and ECN. TCP keeps the ECN to itself.
func setTOS(c syscall.Conn, ipv6 bool, tos int) error {
	return control(c, func(fd int) error {
		if ipv6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, tos)
	})
}

// kindOf is what a frame carries, between which ports, and with which DSCP and ECN.
func kindOf(f []byte) (k Kind, src, dst netip.AddrPort, tos byte, ok bool) {
	if len(f) < 62 {
		return k, src, dst, 0, false
	}
	proto, ports := f[23], f[34:]
	from, to := addr4(f[26:]), addr4(f[30:])
	tos = f[15]
	switch be.Uint16(f[12:]) {
	case 0x0800:
	case 0x86dd:
		k.IPv6, proto, ports = true, f[20], f[54:]
		from, to = addr16(f[22:]), addr16(f[38:])
		tos = f[14]<<4 | f[15]>>4
	default:
		return k, src, dst, 0, false
	}
	k.UDP = proto == 17
	return k, netip.AddrPortFrom(from, be.Uint16(ports)), netip.AddrPortFrom(to, be.Uint16(ports[2:])), tos, proto == 6 || proto == 17
}
