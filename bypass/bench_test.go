package bypass_test

import (
	"net/netip"
	"testing"

	"github.com/viasnet/vias/bypass"
)

// BenchmarkTransaction sets flows up end to end over two in-memory switches: from
// the Request to both ends' Done, one after the other.
func BenchmarkTransaction(b *testing.B) {
	p := newPair(b, nil)
	done := make(chan bypass.Status, 16)
	p.a.changed = func(s bypass.Status) {
		if s.State == bypass.Bypassed || s.State == bypass.OnOverlay {
			done <- s
		}
	}
	proven := func() bool {
		r, _ := p.a.member.PathTo(b.Context(), p.b.id, bypass.IPv4)
		return r == bypass.ReasonNone
	}
	for !proven() {
		continue // a round trip to the loop each time
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f := p.flow
		f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(i))
		f.Dst = netip.AddrPortFrom(f.Dst.Addr(), uint16(i>>16)+1)
		i++
		p.a.member.Request(f, bypass.Verdict{Bypass: true})
		if s := <-done; s.State != bypass.Bypassed {
			b.Fatal(s)
		}
	}
}

// BenchmarkStatus is what the Network asks for each flow that it shows.
func BenchmarkStatus(b *testing.B) {
	p := newPair(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		p.a.member.Status(p.flow)
	}
}
