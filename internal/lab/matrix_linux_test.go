package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// TCP and UDP over IPv4 and IPv6, on each datapath that can be had here: each is bypassed,
// falls back to the overlay, returns, and arrives whole; what is on the provider's network
// meanwhile has its reason; DSCP and ECN are kept; and questions and answers stay off it.
func TestIntegrationMatrix(t *testing.T) {
	beside(t)
	datapaths := Datapaths()
	if d := Datapath(itest.Datapath(t)); d == DatapathSystem {
		datapaths = []Datapath{d}
	}
	for _, d := range datapaths {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			s := newSystemOf(t, func(cfg *Config) { cfg.Datapath = d })
			seen, heard := s.startCapture(), s.listenIn(s.guest(2, 1).Namespace, "eth0")
			s.startPatientNodes()
			talks := s.startTalks(1228)
			s.requireMoves(talks)
			s.requireMarks(talks, seen, heard)
			s.requireNativeMSS(seen)
			s.requireQuestionsStay()
			frames := seen.all(t) // before they end: a guest resets what it hears of a connection that is gone
			for _, k := range talks {
				s.finish(k)
			}
			s.requireSeen(frames)
		})
	}
}

// requireSeen: each frame on the provider's network is of a class, and of each kind many
// are bypassed ones, from both hosts.
func (s *system) requireSeen(frames [][]byte) {
	s.t.Helper()
	n := s.network()
	n.live = s.live
	s.requireClasses(frames, n, classARP, classND, classDTLS, classData, classProbe, classBypass)
	count := map[string]int{}
	for _, f := range frames {
		if n.class(f) == classBypass {
			k, src, _, _, _ := kindOf(f)
			count[k.String()+" "+src.Addr().String()]++
		}
	}
	s.t.Logf("bypassed: %v", count)
	for _, k := range Kinds() {
		for _, h := range s.hosts {
			require.Greater(s.t, count[k.String()+" "+h.addr(k).String()], 50, "%s from host %d", k, h.Index)
		}
	}
}

// requireMarks: the DSCP that guests give their packets, and the ECN of datagrams, are on
// the provider's network and arrive. TCP uses the ECN itself.
func (s *system) requireMarks(talks []*talk, wire, guest *capture) {
	s.t.Helper()
	const ef = 46 << 2 // RFC 3246
	for ecn := range 4 {
		from := map[*capture]int{} // not what earlier marks are on
		for _, c := range []*capture{wire, guest} {
			from[c] = c.count(everything)
		}
		for _, k := range talks {
			tos := ef | ecn
			if !k.UDP {
				tos = ef
			}
			require.NoError(s.t, setTOS(k.ends()[0], k.IPv6, tos))
		}
		for what, c := range map[string]*capture{"on the provider's network": wire, "at the guest": guest} {
			m := marks{system: s, dscp: ef, ecn: byte(ecn), seen: from[c], found: map[Kind]int{}}
			s.await(40*time.Second, fmt.Sprintf("ECN %d %s, of each kind", ecn, what), func() bool {
				m.look(c)
				return m.all(talks)
			})
		}
	}
	for _, k := range talks {
		require.NoError(s.t, setTOS(k.ends()[0], k.IPv6, 0))
	}
}

// marks counts the packets of a capture with a DSCP, those of UDP with an ECN besides.
type marks struct {
	*system
	dscp, ecn byte
	seen      int // frames that were looked at
	found     map[Kind]int
}

// look goes on where it stopped: a capture is long.
func (m *marks) look(c *capture) {
	c.mu.Lock()
	frames := c.frames[m.seen:]
	c.mu.Unlock()
	m.seen += len(frames)
	for _, f := range frames {
		k, src, dst, tos, ok := kindOf(f)
		if k.UDP {
			ok = ok && tos&3 == m.ecn
		}
		if ok && tos&^3 == m.dscp && (dst.Port() == talkPort || src.Addr() == m.hosts[0].addr(k) && isFlowPort(src.Port(), dst.Port())) {
			m.found[k]++
		}
	}
}

// all tells whether there are some of each talk.
func (m *marks) all(talks []*talk) bool {
	for _, k := range talks {
		if m.found[k.Kind] < 3 {
			return false
		}
	}
	return true
}

// requireNativeMSS: a connection whose SYN crosses the bypass has segments as long as the
// guests' MTU allows.
func (s *system) requireNativeMSS(wire *capture) {
	s.t.Helper()
	for _, h := range s.hosts {
		require.NoError(s.t, s.Node(h.Index).SetPolicy(s.t.Context(), nodecfg.Policy{Default: nodecfg.Bypass,
			Rules: []nodecfg.Rule{{Port: talkPort + 1, Action: nodecfg.Bypass, Hold: nodecfg.Duration(bypass.MaxHold)}}}))
	}
	const timestamps = 12
	for _, k := range Kinds()[:2] {
		c := s.connect(k, talkPort+1, wire)
		var maxSeg int
		require.NoError(s.t, control(c, func(fd int) (err error) {
			maxSeg, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
			return err
		}))
		require.Equal(s.t, s.cfg.MTU-k.headers()-timestamps, maxSeg, k.String())
	}
}

// connect makes a connection whose SYN crosses the bypass, however slow the machine is: its
// listener is deaf until both switches have the flow, and hears the SYN when it is sent again.
func (s *system) connect(k Kind, port uint16, wire *capture) *net.TCPConn {
	s.t.Helper()
	from := netip.AddrPortFrom(s.guest(1, 1).addr(k), port)
	at := netip.AddrPortFrom(s.guest(2, 1).addr(k), port)
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // Linux has no filters for it
	var ln net.Listener
	inside(s.t, s.guest(2, 1).Namespace, func() (err error) {
		ln, err = plain.Listen(s.t.Context(), k.network(), at.String())
		return err
	})
	s.t.Cleanup(func() { _ = ln.Close() })
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // takes 0 bytes of what comes
	require.NoError(s.t, control(ln.(*net.TCPListener), func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
	}))
	type result struct {
		net.Conn
		error
	}
	dialed := make(chan result, 1)
	go inside(s.t, s.guest(1, 1).Namespace, func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: time.Minute}
		c, err := d.Dial(k.network(), at.String())
		dialed <- result{c, err}
		return nil
	})
	s.awaitState(proofLimit, from, nodeapi.FlowBypassed)
	before := wire.count(everything)
	require.NoError(s.t, control(ln.(*net.TCPListener), func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	}))
	c := <-dialed
	require.NoError(s.t, c.error, k.String())
	s.t.Cleanup(func() { _ = c.Close() })
	s.requireSYN(k, wire, before)
	return c.Conn.(*net.TCPConn)
}

// requireSYN: since a capture had so many frames, a bypassed SYN of a kind is in it.
func (s *system) requireSYN(k Kind, wire *capture, before int) {
	s.t.Helper()
	s.await(10*time.Second, "the SYN crosses the bypass: "+k.String(), func() bool {
		wire.mu.Lock()
		defer wire.mu.Unlock()
		return slices.ContainsFunc(wire.frames[before:], func(f []byte) bool {
			of, src, dst, _, ok := kindOf(f)
			flags := map[bool]int{false: 47, true: 67}[k.IPv6]
			return ok && of == k && isFlowPort(src.Port(), dst.Port()) && f[flags]&0x12 == 2
		})
	})
}

// requireQuestionsStay: many short exchanges of UDP, each from a port of its own, are
// answered over the overlay; no switch has a rule for one, and no node a bypass.
func (s *system) requireQuestionsStay() {
	s.t.Helper()
	const port, questions = 53, 150
	for _, k := range Kinds()[2:] {
		at := netip.AddrPortFrom(s.guest(2, 1).addr(k), port)
		go reflect(s.socket(k, 2, at))
		for range questions {
			require.NoError(s.t, s.ask(k, at), k.String())
		}
	}
	for i := range s.hosts {
		text, err := s.ovs[i].Ofctl(s.t.Context(), "dump-flows", bridge)
		require.NoError(s.t, err)
		for _, f := range parseFlows(text) {
			require.NotContains(s.t, []string{f.match["tp_src"], f.match["tp_dst"]}, fmt.Sprint(port), "%+v", f)
			require.False(s.t, f.sets("udp_src", fmt.Sprint(port)) || f.sets("udp_dst", fmt.Sprint(port)), "%+v", f)
		}
		st, err := s.Node(i + 1).Status(s.t.Context())
		require.NoError(s.t, err)
		for _, f := range st.Flows {
			if port := fmt.Sprintf(":%d", port); len(f.Flow) > len(port) && f.Flow[len(f.Flow)-len(port):] == port {
				require.Equal(s.t, nodeapi.FlowOverlay, f.State, f.Flow)
			}
		}
	}
}

// socket is a UDP socket of a host's first guest; it is closed when the test ends.
func (s *system) socket(k Kind, host int, at netip.AddrPort) *net.UDPConn {
	s.t.Helper()
	var c *net.UDPConn
	inside(s.t, s.guest(host, 1).Namespace, func() (err error) {
		c, err = net.ListenUDP(k.network(), net.UDPAddrFromAddrPort(at))
		return err
	})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask is one exchange, asked again as resolvers do.
func (s *system) ask(k Kind, at netip.AddrPort) error {
	var c net.Conn
	if err := within(s.guest(1, 1).Namespace, func() (err error) {
		c, err = net.Dial(k.network(), at.String())
		return err
	}); err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	b := make([]byte, 60)
	return poll(ctx, time.Millisecond, func() (bool, error) {
		if _, err := c.Write(b); err != nil {
			return false, err
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return false, err
		}
		_, err := c.Read(b)
		return err == nil, nil
	})
}
