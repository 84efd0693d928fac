package bypass

import (
	"net/netip"
	"time"
	"unique"

	"github.com/viasnet/vias/tap"
)

// A host may know a hundred thousand flows, so what it keeps of each is small: a Flow
// has 72 bytes, a time.Time 24, and each key of a map is there once more.

// fiveTuple is a Flow, or a tuple of the underlay, in 16 bytes. The addresses of one family
// or the other, which many flows share, are kept once. Two are equal if what they
// stand for is.
type fiveTuple struct {
	ends   unique.Handle[addrs]
	sp, dp uint16
	proto  Proto
	back   bool // the source is the higher one of ends
}

// addrs are two addresses of one family, the lower one first; IPv4 ones as in RFC 4291,
// 2.5.5.2.
type addrs struct{ low, high [16]byte }

// compact is f; false if no such flow can be bypassed.
func compact(f Flow) (fiveTuple, bool) {
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if !unicast(src) || !unicast(dst) || src.Is4() != dst.Is4() || src == dst {
		return fiveTuple{}, false
	}
	c := fiveTuple{sp: f.Src.Port(), dp: f.Dst.Port(), proto: f.Proto, back: dst.Less(src)}
	if c.back {
		src, dst = dst, src
	}
	c.ends = unique.Make(addrs{src.As16(), dst.As16()})
	return c, true
}

func (c fiveTuple) flow() Flow {
	if c.ends == (unique.Handle[addrs]{}) {
		return Flow{}
	}
	e := c.ends.Value()
	src, dst := netip.AddrFrom16(e.low).Unmap(), netip.AddrFrom16(e.high).Unmap()
	if c.back {
		src, dst = dst, src
	}
	return Flow{c.proto, netip.AddrPortFrom(src, c.sp), netip.AddrPortFrom(dst, c.dp)}
}

// tuple is the tuple of the underlay that c stands for.
func (c fiveTuple) tuple() tuple {
	f := c.flow()
	return tuple{f.Proto, f.Src, f.Dst}
}

func (c fiveTuple) reverse() fiveTuple { return fiveTuple{c.ends, c.dp, c.sp, c.proto, !c.back} }

// moment is a point in time on a loop's own clock, in nanoseconds; 0 = none. Its methods
// are those of a time.Time.
type moment int64

func (m moment) Add(d time.Duration) moment { return m + moment(d) }
func (m moment) Sub(o moment) time.Duration { return time.Duration(m - o) }
func (m moment) Before(o moment) bool       { return m < o }
func (m moment) After(o moment) bool        { return m > o }
func (m moment) IsZero() bool               { return m == 0 }

// clock turns times into moments and back. It is monotonic, as the times are.
type clock struct{ started time.Time }

func (c clock) at(t time.Time) moment {
	if t.IsZero() {
		return 0
	}
	return moment(t.Sub(c.started)) + 1
}

func (c clock) time(m moment) time.Time {
	if m == 0 {
		return time.Time{}
	}
	return c.started.Add(time.Duration(m - 1))
}

// ends is what a transaction's rules need of Ends.
type ends struct {
	Ofport              uint32
	LocalMAC, RemoteMAC tap.MAC
}

// tags of the two endpoints.
type tags struct{ local, remote string }

func (e Ends) rules() ends { return ends{e.Ofport, e.LocalMAC, e.RemoteMAC} }

// tags are the same for many flows: they are kept once.
func (e Ends) tags() unique.Handle[tags] { return unique.Make(tags{e.LocalTag, e.RemoteTag}) }
