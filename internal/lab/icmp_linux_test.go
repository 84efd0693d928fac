package lab

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodeapi"
)

// narrowLimit bounds how long a transfer may stand while the path under it narrows: the
// proof measures it three times, and the guests' TCP backs off meanwhile.
const narrowLimit = 8 * time.Second

// icmpHeard is what ICMP a guest's kernel was given.
type icmpHeard struct {
	mu   sync.Mutex
	all  []icmpMessage
	conn *net.IPConn
}

type icmpMessage struct {
	from netip.Addr
	body []byte // from the ICMP header on
}

// hearICMP listens in a guest's namespace until the test ends.
func (s *system) hearICMP(g Container) *icmpHeard {
	s.t.Helper()
	h := &icmpHeard{}
	inside(s.t, g.Namespace, func() (err error) {
		h.conn, err = net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
		return err
	})
	var reader sync.WaitGroup
	reader.Go(h.read)
	s.t.Cleanup(func() {
		_ = h.conn.Close()
		reader.Wait()
	})
	return h
}

func (h *icmpHeard) read() {
	b := make([]byte, 1<<16)
	for {
		n, from, err := h.conn.ReadFromIP(b)
		if err != nil {
			return // closed
		}
		addr, _ := netip.AddrFromSlice(from.IP.To4())
		h.mu.Lock()
		h.all = append(h.all, icmpMessage{addr, append([]byte(nil), b[:n]...)})
		h.mu.Unlock()
	}
}

func (h *icmpHeard) messages() []icmpMessage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]icmpMessage(nil), h.all...)
}

// The path of a bypassed transfer narrows behind a router. What the router tells the host
// comes to the guest as if there were no underlay, and the transfer goes on.
func TestIntegrationICMP(t *testing.T) {
	sites, trust := routedSites()
	s := newSystemAt(t, sites)
	p := s.newInquiry(nil)
	p.restart(trust)
	p.bypassed("at first")
	a, b := s.guest(1, 1), s.guest(2, 1)
	heard := s.hearICMP(a)

	st, err := s.startStream(Kind{}, 7733)
	require.NoError(t, err)
	t.Cleanup(st.abort)
	s.awaitState(proofLimit, st.from(), nodeapi.FlowBypassed)
	require.Empty(t, heard.messages(), "while the path is wide")

	narrow := time.Now()
	require.NoError(t, p.ip(t.Context(), p.cfg.outside(), "link set net1 mtu 1300"))
	s.await(proofLimit, "the guest is told", func() bool { return len(heard.messages()) > 0 })
	s.await(proofLimit, "the flow leaves for "+bypass.ReasonMTU.String(), func() bool {
		f, ok := s.flow(1, st.from())
		return ok && f.State == nodeapi.FlowOverlay && f.Reason == bypass.ReasonMTU.String()
	})
	told := time.Now()
	s.await(proofLimit, "the transfer goes on", func() bool { return st.arrived(told) > 1<<16 })
	there, back, err := st.finish(proofLimit)
	require.NoError(t, err)
	gap := st.gap(narrow)
	p.note("%d and %d bytes, silence of %v, %d errors", there, back, gap, len(heard.messages()))
	require.LessOrEqual(t, gap, narrowLimit, "the transfer stood still")
	requireTranslated(t, heard.messages(), a, b)
}

// requireTranslated: all errors are too-big ones from guest b about what guest a sent it.
func requireTranslated(t *testing.T, all []icmpMessage, a, b Container) {
	t.Helper()
	for _, m := range all {
		require.Equal(t, b.addr(Kind{}), m.from, "who tells the guest")
		require.GreaterOrEqual(t, len(m.body), 8+20)
		require.Equal(t, []byte{3, 4}, m.body[:2], "type and code")
		require.Equal(t, []byte{1300 >> 8, 1300 & 0xff}, m.body[6:8], "the next hop's MTU")
		quote := m.body[8:]
		src, _ := netip.AddrFromSlice(quote[12:16])
		dst, _ := netip.AddrFromSlice(quote[16:20])
		require.Equal(t, [2]netip.Addr{a.addr(Kind{}), b.addr(Kind{})}, [2]netip.Addr{src, dst}, "whose packet is quoted")
	}
}
