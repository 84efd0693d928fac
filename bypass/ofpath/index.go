package ofpath

import (
	"iter"
	"net/netip"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// index is the rules of this epoch that should be in the switch. The switch knows them
// by their matches only. There are very many of them, so it keeps them small.
type index struct {
	rules   map[ruleKey]kept
	byMatch map[shortMatch]uint32 // IDs
	ends    shared
}

// kept is an entry, but for what its ruleKey says.
type kept struct {
	shortMatch
	peer  uint32
	since int64
}

// shortMatch is a matchKey in which a number stands for the ends.
type shortMatch struct {
	dir    bypass.Direction
	proto  bypass.Proto
	sp, dp uint16
	ends   uint32
}

func newIndex() index {
	return index{map[ruleKey]kept{}, map[shortMatch]uint32{}, shared{numbers: map[ends]uint32{}}}
}

func (k *matchKey) short(number uint32) shortMatch {
	return shortMatch{k.dir, k.proto, k.sp, k.dp, number}
}

func (x *index) entry(id uint32, r kept) entry {
	m := matchKey{r.dir, r.proto, r.sp, r.dp, x.ends.list[r.ends].ends}
	return entry{m, id, r.peer, r.since}
}

// get is the rule with that name; false if there is none.
func (x *index) get(k ruleKey) (entry, bool) {
	r, there := x.rules[k]
	if !there {
		return entry{}, false
	}
	return x.entry(k.id, r), true
}

// owner is the ID of the rule that has m's flow; false if none has.
func (x *index) owner(m matchKey) (uint32, bool) {
	n, known := x.ends.numbers[m.ends]
	if !known {
		return 0, false
	}
	id, there := x.byMatch[m.short(n)]
	return id, there
}

// all rules, in no order. They may be dropped meanwhile.
func (x *index) all() iter.Seq[entry] {
	return func(yield func(entry) bool) {
		for k, r := range x.rules {
			if !yield(x.entry(k.id, r)) {
				return
			}
		}
	}
}

// put adds e in place of the rules that had its ID or its match.
func (x *index) put(e entry) {
	x.drop(e.key())
	if other, taken := x.owner(e.matchKey); taken {
		x.drop(ruleKey{e.dir, other})
	}
	m := e.short(x.ends.take(e.ends))
	x.rules[e.key()], x.byMatch[m] = kept{m, e.peer, e.since}, e.id
}

func (x *index) drop(k ruleKey) {
	if old, there := x.rules[k]; there {
		delete(x.rules, k)
		delete(x.byMatch, old.shortMatch)
		x.ends.release(old.ends)
	}
}

// ends is what the rules of one direction between two endpoints have in common, as it is
// matched. Addresses of either family weigh nothing where many flows share them.
type ends struct {
	ofport     uint32 // outbound only, like the MACs
	smac, dmac tap.MAC
	src, dst   netip.Addr
}

// shared is ends that rules have, each kept once.
type shared struct {
	numbers map[ends]uint32
	list    []uses // by number
	free    []uint32
}

type uses struct {
	ends
	n int
}

// take counts one more use of e, and gives its number.
func (s *shared) take(e ends) uint32 {
	n, known := s.numbers[e]
	if !known {
		if last := len(s.free) - 1; last >= 0 {
			n, s.free = s.free[last], s.free[:last]
		} else {
			n, s.list = uint32(len(s.list)), append(s.list, uses{})
		}
		s.numbers[e], s.list[n] = n, uses{ends: e}
	}
	s.list[n].n++
	return n
}

// release undoes one take.
func (s *shared) release(n uint32) {
	u := &s.list[n]
	if u.n--; u.n == 0 {
		delete(s.numbers, u.ends)
		s.free = append(s.free, n)
	}
}
