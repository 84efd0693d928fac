package bypass

import (
	"net/netip"
	"time"
	"unique"

	"github.com/viasnet/vias/tap"
)

// A host may know a hundred thousand flows, so what it keeps of each is small: a Flow
// has 72 bytes, a time.Time 24, and each key of a map is there once more.

// fiveTuple is a Flow, or a tuple of the underlay, in 14 bytes. It knows IPv4 only, as
// the Classifier and the messages between hosts do.
type fiveTuple struct {
	src, dst [4]byte
	sp, dp   uint16
	proto    Proto
}

// compact is f; false if it is not IPv4.
func compact(f Flow) (fiveTuple, bool) {
	if !f.Src.Addr().Is4() || !f.Dst.Addr().Is4() {
		return fiveTuple{}, false
	}
	return fiveTuple{f.Src.Addr().As4(), f.Dst.Addr().As4(), f.Src.Port(), f.Dst.Port(), f.Proto}, true
}

func (c fiveTuple) flow() Flow {
	return Flow{c.proto, netip.AddrPortFrom(netip.AddrFrom4(c.src), c.sp), netip.AddrPortFrom(netip.AddrFrom4(c.dst), c.dp)}
}

// tuple is the tuple of the underlay that c stands for.
func (c fiveTuple) tuple() tuple {
	f := c.flow()
	return tuple{f.Proto, f.Src, f.Dst}
}

func (c fiveTuple) reverse() fiveTuple { return fiveTuple{c.dst, c.src, c.dp, c.sp, c.proto} }

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
