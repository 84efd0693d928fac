package lab

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/tap"
)

// routed is a lab of two sites with a router between them, one transfer over TCP for each
// family, and captures of what the guest of host 1, which all is about, and its neighbour
// receive.
type routed struct {
	*system
	streams      map[Kind]*stream
	heard, other *capture
}

const icmpPort = 5600 // the servers'

// icmpKinds are the transfers'.
func icmpKinds() []Kind { return Kinds()[:2] }

func newRouted(t *testing.T) *routed {
	t.Helper()
	sites, trust := routedSites()
	r := &routed{system: newSystemAt(t, sites), streams: map[Kind]*stream{}}
	trust.MaxRTT = nodecfg.Duration(time.Second)
	for i := range sites {
		trust.Prefixes = append(trust.Prefixes, r.cfg.siteNr(i).prefix6())
	}
	require.NoError(t, r.startNodesAs(t.Context(), r.buildNode(), func(_ *Host, c *nodecfg.Config) {
		c.Policy, c.Trust = nodecfg.Policy{Default: nodecfg.Bypass}, trust
	}))
	r.heard, r.other = r.listenIn(r.guest(1, 1).Namespace, "eth0"), r.listenIn(r.guest(1, 2).Namespace, "eth0")
	for _, k := range icmpKinds() {
		s, err := r.startStream(k, icmpPort)
		require.NoError(t, err, k.String())
		t.Cleanup(s.abort)
		r.streams[k] = s
	}
	for _, s := range r.streams {
		r.awaitState(proofLimit, s.from(), nodeapi.FlowBypassed)
	}
	return r
}

// router is the router's address on the link of host 1.
func (r *routed) router(k Kind) netip.Addr {
	if k.IPv6 {
		return r.cfg.site(1).gateway6()
	}
	return r.cfg.site(1).gateway()
}

// isICMPError tells whether a frame is an error of the kind's family that guests can get:
// unreachable or too-big.
func isICMPError(k Kind, f []byte) bool {
	if k.IPv6 {
		return len(f) > 54 && be.Uint16(f[12:]) == 0x86dd && f[20] == 58 && (f[54] == 1 || f[54] == 2)
	}
	return len(f) > 34 && be.Uint16(f[12:]) == 0x0800 && f[23] == 1 && f[34] == 3
}

// told counts the errors of a family that the guest received.
func (r *routed) told(k Kind) int {
	return r.heard.count(func(f []byte) bool { return isICMPError(k, f) })
}

// requireHidden: whatever errors a guest of host 1 received came, by their addresses, from
// the other guest, and have no address of the underlay anywhere. The capture has ended.
func (r *routed) requireHidden(frames [][]byte) {
	r.t.Helper()
	var underlay []netip.Addr
	for i, h := range r.hosts {
		s := r.cfg.siteNr(i)
		underlay = append(underlay, h.Addr, h.Addr6, s.gateway(), s.gateway6())
	}
	local, remote := r.guest(1, 1), r.guest(2, 1)
	for _, k := range icmpKinds() {
		n := 0
		for _, f := range frames {
			if !isICMPError(k, f) {
				continue
			}
			n++
			from, to := addr4(f[26:]), addr4(f[30:])
			if k.IPv6 {
				from, to = addr16(f[22:]), addr16(f[38:])
			}
			require.Equal(r.t, remote.addr(k), from, "%x", f)
			require.Equal(r.t, local.addr(k), to, "%x", f)
			require.Equal(r.t, [2]tap.MAC{local.MAC, remote.MAC}, [2]tap.MAC{tap.MAC(f[:6]), tap.MAC(f[6:12])}, "%x", f)
			for _, a := range underlay {
				require.False(r.t, bytes.Contains(f, a.AsSlice()), "%v in %x", a, f)
			}
		}
		require.Positive(r.t, n, k.String())
		r.t.Logf("%s: the guest got %d errors in all", k, n)
	}
}

// ICMP errors of the underlay, with a real router that makes them and real guests' kernels
// that act on them: an unreachable reaches a socket, forged ones reach nobody or few, and a
// too-big makes segments shorter while the flow leaves the path that became narrow.
func TestIntegrationICMP(t *testing.T) {
	beside(t)
	r := newRouted(t)
	for _, k := range icmpKinds() {
		r.requireRefused(k)
		r.requireForged(k)
	}
	r.requireNarrower()
	for k, s := range r.streams {
		there, back, err := s.finish(20 * time.Second)
		require.NoError(t, err, k.String())
		t.Logf("%s: %d bytes there and %d back, both checksums equal", k, there, back)
	}
	r.requireHidden(r.heard.all(t))
	for _, k := range icmpKinds() {
		require.Zero(t, r.other.count(func(f []byte) bool { return isICMPError(k, f) }), "errors for a guest that has no such flow")
	}
}

// requireRefused: the router refuses one bypassed flow of UDP, and the guest's socket says
// so.
func (r *routed) requireRefused(k Kind) {
	r.t.Helper()
	k.UDP = true
	at := netip.AddrPortFrom(r.guest(2, 1).addr(k), icmpPort)
	go reflect(r.socket(k, 2, at))
	var c *net.UDPConn
	inside(r.t, r.guest(1, 1).Namespace, func() (err error) {
		c, err = net.DialUDP(k.network(), nil, net.UDPAddrFromAddrPort(at))
		return err
	})
	r.t.Cleanup(func() { _ = c.Close() })
	client := c.LocalAddr().(*net.UDPAddr).AddrPort()
	var found nodeapi.Flow
	r.await(proofLimit, k.String()+" is bypassed", func() bool {
		require.NoError(r.t, pester(c), "nobody refuses it yet")
		there, ok := r.flow(2, client)
		var here bool
		found, here = r.flow(1, client)
		return ok && here && there.State == nodeapi.FlowBypassed && found.State == nodeapi.FlowBypassed
	})
	ns := r.cfg.outside()
	_, err := r.in(r.t.Context(), ns, "nft", "table inet refuse { chain out { type filter hook forward priority 0; udp sport "+
		strconv.Itoa(int(found.Local.Port()))+" udp dport "+strconv.Itoa(int(found.Remote.Port()))+" reject with icmpx type port-unreachable; }; }")
	require.NoError(r.t, err)
	start := time.Now()
	r.await(5*time.Second, k.String()+": the socket is told", func() bool {
		return errors.Is(pester(c), syscall.ECONNREFUSED)
	})
	r.t.Logf("%s: refused after %v", k, time.Since(start))
	_, err = r.in(r.t.Context(), ns, "nft", "delete table inet refuse")
	require.NoError(r.t, err)
}

// pester sends some datagrams and takes an answer, if there is one. Its error is what an
// ICMP error made the kernel say.
func pester(c *net.UDPConn) error {
	var b [60]byte
	for range 8 {
		if _, err := c.Write(b[:]); err != nil {
			return err
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := c.Read(b[:]); err != nil && !errors.Is(err, syscall.EAGAIN) {
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return nil
		}
		return err
	}
	return nil
}

// What a guest gets of one flow, as bypass has it: a few at once, and then a few a second.
const (
	toldAtOnce = 4
	toldEvery  = 250 * time.Millisecond
)

// requireForged: of a thousand forged errors that quote nothing that lives no guest gets
// one, and of a thousand that quote a transfer's own packets it gets few. It does not mind.
func (r *routed) requireForged(k Kind) {
	r.t.Helper()
	const many, perSecond = 1000, 1000
	since := time.Now()
	f, ok := r.flow(1, r.streams[k].from())
	require.True(r.t, ok)
	at, dead, live := tuple{f.Local, f.Remote}, newMarker(), newMarker()
	var frames [2][][]byte
	wrong := r.notLive(k, at)
	for i := range many {
		mtu := 1300 * (i % 2) // each second one is a too-big
		frames[0] = append(frames[0], r.forged(k, wrong[i%len(wrong)], mtu, dead))
		frames[1] = append(frames[1], r.forged(k, quoted{at, k.UDP}, mtu, live))
	}
	out := r.spoofer(r.hosts[0])
	out.say(perSecond, frames[0]...)
	start := time.Now()
	out.say(perSecond, frames[1]...)
	r.await(5*time.Second, "one that quotes what lives is translated", func() bool { return r.heard.count(live.with) > 0 })
	r.goOn(k, time.Now(), 64<<10) // what was to come has come
	n, most := r.heard.count(live.with), toldAtOnce+1+int(time.Since(start)/toldEvery)
	require.LessOrEqual(r.t, n, most, "errors of one flow")
	for _, c := range []*capture{r.heard, r.other} {
		require.Zero(r.t, c.count(dead.with), "errors that quote nothing that lives")
	}
	require.Zero(r.t, r.other.count(live.with))
	r.t.Logf("%s: %d of %d forged errors that quote it were translated (%d at most), and none of the others", k, n, many, most)
	require.Less(r.t, r.streams[k].gap(since), 3*time.Second+r.streams[k].slack)
	// A false too-big has the path measured, and it is as wide as it was.
	r.awaitState(proofLimit, r.streams[k].from(), nodeapi.FlowBypassed)
}

// goOn waits until a transfer brought so much since then.
func (r *routed) goOn(k Kind, since time.Time, bytes uint64) {
	r.t.Helper()
	r.await(15*time.Second, k.String()+" goes on", func() bool {
		require.NoError(r.t, r.streams[k].broken())
		return r.streams[k].arrived(since) >= bytes
	})
}

// quoted is whose packet an error quotes.
type quoted struct {
	tuple
	udp bool
}

// notLive are what differs from a live flow's in one thing each.
func (r *routed) notLive(k Kind, at tuple) []quoted {
	port := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()^1) }
	host := func(a netip.AddrPort, to netip.Addr) netip.AddrPort { return netip.AddrPortFrom(to, a.Port()) }
	guests := tuple{r.streams[k].from(), netip.AddrPortFrom(r.guest(2, 1).addr(k), icmpPort)}
	return []quoted{
		{tuple{port(at.src), at.dst}, false},
		{tuple{at.src, port(at.dst)}, false},
		{tuple{at.dst, at.src}, false},
		{tuple{at.src, host(at.dst, r.router(k))}, false},
		{tuple{host(at.src, r.guest(1, 1).addr(k)), at.dst}, false},
		{guests, false},
		{at, true},
	}
}

// forged is an error as if the router had sent it to host 1: a too-big, or that a port is
// unreachable if the MTU is 0.
func (r *routed) forged(k Kind, q quoted, mtu int, m marker) []byte {
	const long = 1400
	proto, head := byte(6), segment(q.src.Port(), q.dst.Port(), ack)
	if q.udp {
		proto, head = 17, datagram(q.src.Port(), q.dst.Port())
	}
	h, router := r.hosts[0], r.router(k)
	msg := be.AppendUint32([]byte{3, 3, 0, 0}, uint32(mtu))
	switch {
	case k.IPv6 && mtu > 0:
		msg[0], msg[1] = 2, 0
	case k.IPv6:
		msg[0], msg[1] = 1, 4
	case mtu > 0:
		msg[1] = 4
	}
	msg = append(append(append(msg, ipHeader(proto, q.src.Addr(), q.dst.Addr(), long)...), head...), m[:]...)
	f, mac := append([]byte(nil), h.MAC[:]...), r.cfg.site(1).routerMAC()
	f = append(f, mac[:]...)
	if k.IPv6 {
		pseudo := append(append(router.AsSlice(), h.Addr6.AsSlice()...), 0, 0, byte(len(msg)>>8), byte(len(msg)), 0, 0, 0, 58)
		be.PutUint16(msg[2:], ^sum(msg, uint32(sum(pseudo, 0))))
		return append(append(append(f, 0x86, 0xdd), ipHeader(58, router, h.Addr6, len(msg))...), msg...)
	}
	be.PutUint16(msg[2:], ^sum(msg, 0))
	return append(append(append(f, 0x08, 0x00), ipHeader(1, router, h.Addr, len(msg))...), msg...)
}

// ipHeader is that of a packet with so many bytes behind it, which is not to be fragmented.
func ipHeader(proto byte, from, to netip.Addr, length int) []byte {
	if from.Is6() {
		h := []byte{0x60, 0, 0, 0, byte(length >> 8), byte(length), proto, 64}
		return append(append(h, from.AsSlice()...), to.AsSlice()...)
	}
	h := []byte{0x45, 0, byte((20 + length) >> 8), byte(20 + length), 0, 0, 0x40, 0, 64, proto, 0, 0}
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	be.PutUint16(h[10:], ^sum(h, 0))
	return h
}

// requireNarrower: the router's link to host 2 becomes narrower than the guests' packets.
// The guest's kernel hears of it, the flows leave with their reason, and go on.
func (r *routed) requireNarrower() {
	r.t.Helper()
	const mtu = 1300
	before := map[Kind]int{}
	for _, k := range icmpKinds() {
		before[k] = r.told(k)
		require.Greater(r.t, pathMTU(r.t, k, r.streams[k].client), mtu)
	}
	since := time.Now()
	require.NoError(r.t, r.ip(r.t.Context(), r.cfg.outside(), "link set "+r.cfg.site(2).bridge+" mtu "+strconv.Itoa(mtu)))
	for _, k := range icmpKinds() {
		r.await(5*time.Second, k.String()+": the guest's kernel knows the MTU", func() bool {
			return r.told(k) > before[k] && pathMTU(r.t, k, r.streams[k].client) == mtu
		})
		r.t.Logf("%s: the guest knew after %v", k, time.Since(since))
	}
	for _, k := range icmpKinds() {
		s := r.streams[k]
		r.await(10*time.Second, k.String()+" leaves: "+bypass.ReasonMTU.String(), func() bool {
			f, ok := r.flow(1, s.from())
			return ok && f.State == nodeapi.FlowOverlay && f.Reason == bypass.ReasonMTU.String()
		})
		left := time.Since(since)
		r.goOn(k, time.Now(), 256<<10)
		require.Less(r.t, s.gap(since), 3*time.Second+s.slack, k.String())
		r.t.Logf("%s: left after %v, longest standstill %v", k, left, s.gap(since))
	}
}

// pathMTU is what the kernel of a connection's end takes the path's MTU for.
func pathMTU(t *testing.T, k Kind, c *net.TCPConn) (mtu int) {
	t.Helper()
	level, name := unix.IPPROTO_IP, unix.IP_MTU
	if k.IPv6 {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	require.NoError(t, control(c, func(fd int) (err error) {
		mtu, err = unix.GetsockoptInt(fd, level, name)
		return err
	}))
	return mtu
}
