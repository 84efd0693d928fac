package dns_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/dns"
)

var (
	errUnknown = errors.New("nobody has it")
	errAway    = errors.New("the directory is away")
)

// book is what Resolve knows.
type book struct{ asked atomic.Int32 }

func (b *book) resolve(_ context.Context, name string) ([]netip.Addr, error) {
	b.asked.Add(1)
	switch name {
	case "web-1":
		return []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}, nil
	case "a.b":
		return []netip.Addr{netip.MustParseAddr("10.77.0.2")}, nil
	case "many":
		var list []netip.Addr
		for i := range byte(20) {
			list = append(list, netip.AddrFrom16([16]byte{0xfd, 15: i}))
		}
		return list, nil
	case "silent":
		return nil, nil
	case "away":
		return nil, errAway
	}
	return nil, errUnknown
}

func open(t *testing.T) (*book, *dns.Server) {
	b := &book{}
	s, err := dns.Open(dns.Config{Network: "Blue", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Resolve: b.resolve,
		Unknown: func(err error) bool { return errors.Is(err, errUnknown) }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return b, s
}

func ask(t *testing.T, s *dns.Server, network, name string, kind uint16) *mdns.Msg {
	t.Helper()
	m, _, err := (&mdns.Client{Net: network}).Exchange(new(mdns.Msg).SetQuestion(name, kind), s.Addr().String())
	require.NoError(t, err)
	return m
}

func TestAnswers(t *testing.T) {
	_, s := open(t)
	for _, c := range []struct {
		name    string
		kind    uint16
		code    int
		answers []string
		soa     bool
	}{
		{"web-1.blue.", mdns.TypeA, mdns.RcodeSuccess, []string{"web-1.blue.\t5\tIN\tA\t10.77.0.1"}, false},
		{"WEB-1.bluE.", mdns.TypeAAAA, mdns.RcodeSuccess, []string{"WEB-1.bluE.\t5\tIN\tAAAA\tfd77::1"}, false},
		{"a.b.blue.", mdns.TypeA, mdns.RcodeSuccess, []string{"a.b.blue.\t5\tIN\tA\t10.77.0.2"}, false},
		{"a.b.blue.", mdns.TypeAAAA, mdns.RcodeSuccess, nil, true},
		{"web-1.blue.", mdns.TypeTXT, mdns.RcodeSuccess, nil, true},
		{"silent.blue.", mdns.TypeA, mdns.RcodeSuccess, nil, true},
		{"nobody.blue.", mdns.TypeA, mdns.RcodeNameError, nil, true},
		{"away.blue.", mdns.TypeA, mdns.RcodeServerFailure, nil, false},
		{"blue.", mdns.TypeA, mdns.RcodeSuccess, nil, true},
		{"web-1.green.", mdns.TypeA, mdns.RcodeRefused, nil, false},
		{"web-1.notblue.", mdns.TypeA, mdns.RcodeRefused, nil, false},
		{".", mdns.TypeNS, mdns.RcodeRefused, nil, false},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := ask(t, s, network, c.name, c.kind)
			require.Equal(t, c.code, m.Rcode, c.name)
			var got []string
			for _, rr := range m.Answer {
				got = append(got, rr.String())
			}
			require.Equal(t, c.answers, got, c.name)
			require.Equal(t, c.soa, len(m.Ns) == 1, c.name)
			require.Equal(t, c.code != mdns.RcodeRefused, m.Authoritative, c.name)
		}
	}
	require.Len(t, ask(t, s, "udp", "blue.", mdns.TypeSOA).Answer, 1)
}

// TestLongAnswer comes over TCP, or over UDP to who says that he takes it.
func TestLongAnswer(t *testing.T) {
	_, s := open(t)
	require.True(t, ask(t, s, "udp", "many.blue.", mdns.TypeAAAA).Truncated)
	require.Len(t, ask(t, s, "tcp", "many.blue.", mdns.TypeAAAA).Answer, 20)
	q := new(mdns.Msg).SetQuestion("many.blue.", mdns.TypeAAAA).SetEdns0(1232, false)
	m, _, err := (&mdns.Client{UDPSize: 1232}).Exchange(q, s.Addr().String())
	require.NoError(t, err)
	require.False(t, m.Truncated)
	require.Len(t, m.Answer, 20)
}

// TestKept: who asks often does not ask the directory each time, whatever its answer was.
func TestKept(t *testing.T) {
	b, s := open(t)
	for _, name := range []string{"web-1.blue.", "nobody.blue.", "away.blue."} {
		before := b.asked.Load()
		for range 5 {
			ask(t, s, "udp", name, mdns.TypeA)
			ask(t, s, "udp", name, mdns.TypeAAAA)
		}
		require.Equal(t, before+1, b.asked.Load(), name)
	}
}

func TestOpenRefused(t *testing.T) {
	good := dns.Config{Network: "blue", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Resolve: (&book{}).resolve, Unknown: func(error) bool { return true }}
	for want, change := range map[string]func(*dns.Config){
		"cannot be a zone": func(c *dns.Config) { c.Network = "" },
		"Resolve":          func(c *dns.Config) { c.Resolve = nil },
		"Listen":           func(c *dns.Config) { c.Listen = netip.AddrPort{} },
		"listen":           func(c *dns.Config) { c.Listen = netip.MustParseAddrPort("192.0.2.1:0") },
	} {
		c := good
		change(&c)
		_, err := dns.Open(c)
		require.ErrorContains(t, err, want)
	}
}
