package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/bypass/underlay"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// sharedEnv makes the test binary a host that two Networks share; see sharedHost.
const sharedEnv = "VIAS_TEST_SHARED_HOST"

// sharing is what a shared host is told by sharedEnv. Its two Networks differ in their
// ofports alone.
type sharing struct {
	OpenFlow        string
	Self, Peer      byte // makes the PeerIDs
	MAC, PeerMAC    tap.MAC
	Flow            bypass.Flow // as the guests here send it
	Ofports         [2]uint32
	FirstToAsk      bool
	Bridge, Through string
}

// line is what a shared host reads and writes: messages between the hosts, which the
// test carries, what it is to do, and the state of its Networks' flows.
type line struct {
	Net   int
	Msg   []byte `json:",omitempty"`
	Leave bool   `json:",omitempty"`
	State string `json:",omitempty"`
}

// sharedHost runs one bypass.Host with two members until its input ends.
func sharedHost(config string, in io.Reader, out io.Writer) error {
	var c sharing
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	kernel, err := underlay.Open(underlay.Config{Device: c.Bridge, Uplink: c.Through})
	if err != nil {
		return err
	}
	defer kernel.Close()
	host, err := bypass.NewHost(bypass.HostConfig{
		Datapath: ofpath.Open(ofpath.Config{Uplink: c.Through, Dial: func(ctx context.Context) (ofctl.Switch, error) {
			return ofctl.Dial(ctx, c.OpenFlow, ofctl.Config{})
		}}),
		Underlay: kernel, Trust: bypass.Trust{MaxRTT: time.Second},
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(l line) bool {
		mu.Lock()
		defer mu.Unlock()
		return json.NewEncoder(out).Encode(l) == nil
	}
	var members [2]*bypass.Member
	for i := range members {
		if members[i], err = c.join(host, i, say); err != nil {
			return err
		}
	}
	return c.serve(members, in)
}

func (c sharing) join(host *bypass.Host, i int, say func(line) bool) (*bypass.Member, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m, err := host.Join(ctx, bypass.MemberConfig{
		Network: fmt.Sprint("net", i), Self: overlay.PeerID{c.Self, byte(i)}, Policy: bypass.Always, MTU: 1400,
		Resolve: func(f bypass.Flow) (bypass.Ends, bool) {
			return bypass.Ends{Peer: overlay.PeerID{c.Peer, byte(i)}, Ofport: c.Ofports[i], LocalMAC: c.MAC, RemoteMAC: c.PeerMAC}, f == c.Flow
		},
		Send:    func(_ overlay.PeerID, msg []byte) bool { return say(line{Net: i, Msg: msg}) },
		Changed: func(s bypass.Status) { say(line{Net: i, State: s.State.String()}) },
	})
	if err != nil {
		return nil, err
	}
	m.LinkUp(overlay.PeerID{c.Peer, byte(i)})
	return m, m.Attach(ctx, bypass.Workload{Ofport: c.Ofports[i], MAC: c.MAC, IPs: []netip.Addr{c.Flow.Src.Addr()}})
}

func (c sharing) serve(members [2]*bypass.Member, in io.Reader) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range members {
		go func() {
			for c.FirstToAsk && ctx.Err() == nil {
				members[i].Request(c.Flow, bypass.Verdict{Bypass: true, Idle: time.Minute})
				<-time.After(500 * time.Millisecond)
			}
		}()
	}
	leave := func(i int) {
		end, done := context.WithTimeout(ctx, 5*time.Second)
		defer done()
		_ = members[i].Leave(end) // the other end may have left already
	}
	var leaving sync.WaitGroup
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return err
		}
		if l.Leave {
			leaving.Go(func() { leave(l.Net) })
		} else {
			members[l.Net].Receive(overlay.PeerID{c.Peer, byte(l.Net)}, l.Msg)
		}
	}
	leaving.Wait()
	leave(0)
	leave(1)
	return lines.Err()
}

// shared is two shared hosts and the guests of their Networks: first and second
// container of each host.
type shared struct {
	*system
	flow   bypass.Flow
	in     [2]*io.PipeWriter
	out    [2]*io.PipeReader // the other ends of in
	inMu   [2]sync.Mutex
	mu     sync.Mutex
	states [2][2]string // by host and Network
}

func newShared(t *testing.T) *shared {
	s := &shared{system: newSystem(t)}
	a, b := s.guest(1, 1), s.guest(2, 1)
	s.flow = bypass.Flow{Proto: bypass.UDP, Src: netip.AddrPortFrom(a.Addr, 5500), Dst: netip.AddrPortFrom(b.Addr, 5600)}
	for i := range s.in {
		s.out[i], s.in[i] = io.Pipe()
	}
	for i, h := range s.hosts {
		g, far := []Container{a, b}[i], []Container{b, a}[i]
		_, err := s.ovs[i].Vsctl(t.Context(), "set", "port", h.Containers[1].Port, fmt.Sprintf("tag=%d", workloadTag+1))
		require.NoError(t, err)
		require.NoError(t, s.ips(t.Context(), h.Containers[1].Namespace, "link set eth0 down", fmt.Sprintf("link set eth0 address %s", g.MAC),
			"addr flush dev eth0", fmt.Sprintf("addr add %s/%d dev eth0", g.Addr, overlayBits), "link set eth0 up"))
		for _, c := range h.Containers {
			require.NoError(t, s.ip(t.Context(), c.Namespace, fmt.Sprintf("neigh add %s lladdr %s dev eth0 nud permanent", far.Addr, far.MAC)))
		}
		s.start(i, h, g, far)
	}
	return s
}

func (s *shared) start(i int, h *Host, g, far Container) {
	t := s.t
	f := s.flow
	if i == 1 {
		f = f.Reverse()
	}
	config, err := json.Marshal(sharing{OpenFlow: s.ovs[i].Mgmt(bridge), Self: byte(1 + i), Peer: byte(2 - i), MAC: g.MAC, PeerMAC: far.MAC, Flow: f,
		Ofports: [2]uint32{h.Containers[0].Ofport, h.Containers[1].Ofport}, FirstToAsk: i == 0, Bridge: bridge, Through: uplink})
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	in, w := s.out[i], s.in[i]
	r, out := io.Pipe()
	log := &bytes.Buffer{}
	c, err := s.spawn(h.Namespace, in, out, log, "env", sharedEnv+"="+string(config), self)
	require.NoError(t, err)
	go s.carry(i, r)
	t.Cleanup(func() {
		_ = w.Close()
		<-c.exited
		_, _ = r.Close(), in.Close()
		if t.Failed() {
			t.Logf("host %d: %v %s", i+1, c.err, log)
		}
	})
}

// carry takes what host i says to the other.
func (s *shared) carry(i int, r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			continue
		}
		if l.State != "" {
			s.mu.Lock()
			s.states[i][l.Net] = l.State
			s.mu.Unlock()
			continue
		}
		s.tell(1-i, l)
	}
}

func (s *shared) tell(i int, l line) {
	b, err := json.Marshal(l)
	if err == nil {
		s.inMu[i].Lock()
		defer s.inMu[i].Unlock()
		_, _ = s.in[i].Write(append(b, '\n')) // it may have ended
	}
}

// voice is a guest that says its Network's name; ear what one has heard.
func (s *shared) guestsTalk(nr int) (to *net.UDPConn, heard func() map[string]int) {
	from := udp(s.t, s.guest(1, nr).Namespace, s.flow.Src)
	ear := udp(s.t, s.guest(2, nr).Namespace, s.flow.Dst)
	var mu sync.Mutex
	got := map[string]int{}
	go func() {
		var b [100]byte
		for {
			n, err := ear.Read(b[:])
			if err != nil {
				return
			}
			mu.Lock()
			got[string(b[:n])]++
			mu.Unlock()
		}
	}()
	return from, func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		out := map[string]int{}
		for k, v := range got {
			out[k] = v
		}
		return out
	}
}

// Two Networks on one pair of switches, whose guests have the same MACs and addresses
// and use the same five-tuple, are bypassed at once and stay apart; when one leaves, the
// other loses nothing.
func TestIntegrationTwoNetworks(t *testing.T) {
	beside(t)
	s := newShared(t)
	s.await(20*time.Second, "both Networks' flows are bypassed at both ends", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.states == [2][2]string{{"bypassed", "bypassed"}, {"bypassed", "bypassed"}}
	})
	one, heardOne := s.guestsTalk(1)
	two, heardTwo := s.guestsTalk(2)
	sent := 0
	talk := func(rounds int) {
		for range rounds {
			for c, text := range map[*net.UDPConn]string{one: "one", two: "two"} {
				_, err := c.WriteToUDPAddrPort([]byte(text), s.flow.Dst)
				require.NoError(t, err)
			}
			sent++
			<-time.After(5 * time.Millisecond)
		}
	}
	talk(200)
	s.await(5*time.Second, "all is heard", func() bool { return heardOne()["one"] == sent && heardTwo()["two"] == sent })
	for i := range s.hosts { // both ends of the second Network leave
		s.tell(i, line{Net: 1, Leave: true})
	}
	talk(700) // until after the time in which a gate would be renewed by itself
	s.await(5*time.Second, "the first Network loses nothing", func() bool { return heardOne()["one"] == sent })
	require.Len(t, heardOne(), 1, "the first Network's guest has heard the second: %v", heardOne())
	require.Len(t, heardTwo(), 1, "and the other way: %v", heardTwo())
	require.Less(t, heardTwo()["two"], sent, "the second Network has not left")
	t.Logf("%d datagrams of the first Network, none lost; of the second, which left, %d", sent, heardTwo()["two"])
}
