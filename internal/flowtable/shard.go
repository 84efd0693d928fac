package flowtable

import (
	"math/rand/v2"
	"sync"

	"github.com/viasnet/vias/bypass"
)

const (
	// samples is how many flows eviction looks at: the oldest of a few is old
	// enough, and the cost does not grow with the table.
	samples = 16
	// briefShare of a full shard may be brief UDP flows that others must not pay for: as
	// long as there are more, each new one takes the place of another.
	briefShare = 8
	minSlots   = 8
)

// shard is a hash table of its own, with open addressing: the key is in the entry, and
// not in the table once more as in a map.
type shard struct {
	mu    sync.Mutex
	slots []slot // a power of two, at least a quarter of them empty
	n     int
	udp   int      // how many of the n are UDP's
	_     [16]byte // a cache line each
}

// slot is empty when entry is nil.
type slot struct {
	hash  uint64
	entry *Entry
}

func (s *shard) findLocked(k *tuple, hash uint64) *Entry {
	if len(s.slots) == 0 {
		return nil
	}
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		switch x := &s.slots[i]; {
		case x.entry == nil:
			return nil
		case x.hash == hash && x.entry.flow == *k:
			return x.entry
		}
	}
}

// insertLocked adds e, which is not there yet.
func (s *shard) insertLocked(e *Entry, hash uint64) {
	if (s.n+1)*4 > len(s.slots)*3 {
		old := s.slots
		s.slots = make([]slot, max(minSlots, 2*len(old)))
		for _, x := range old {
			if x.entry != nil {
				s.putLocked(x)
			}
		}
	}
	s.putLocked(slot{hash, e})
	s.n++
	if e.flow.proto == bypass.UDP {
		s.udp++
	}
}

func (s *shard) putLocked(x slot) {
	mask := uint64(len(s.slots) - 1)
	i := x.hash & mask
	for s.slots[i].entry != nil {
		i = (i + 1) & mask
	}
	s.slots[i] = x
}

// removeLocked empties slot i and moves up those behind it that would not be found any
// more. Only slots from i on change, but for those that are found by way of the end.
func (s *shard) removeLocked(i int) {
	s.n--
	if s.slots[i].entry.flow.proto == bypass.UDP {
		s.udp--
	}
	mask := uint64(len(s.slots) - 1)
	hole := uint64(i)
	for k := (hole + 1) & mask; s.slots[k].entry != nil; k = (k + 1) & mask {
		if home := s.slots[k].hash & mask; (k-home)&mask >= (k-hole)&mask {
			s.slots[hole], hole = s.slots[k], k
		}
	}
	s.slots[hole] = slot{}
}

// evictLocked makes room for a flow of proto. Of a few entries it takes the brief UDP flow that
// was silent longest (a question and its answer are worth the least), or else the flow that
// was; it looks on if all of those few must stay, and, for a UDP flow, as long as there are many
// brief ones somewhere.
func (s *shard) evictLocked(proto bypass.Proto) bool {
	brief, oldest := -1, -1
	insist := proto == bypass.UDP && s.udp*briefShare >= s.n
	at := int(rand.Uint64() & uint64(len(s.slots)-1))
	for k, seen := 0, 0; k < len(s.slots); k++ {
		i := (at + k) & (len(s.slots) - 1)
		e := s.slots[i].entry
		if e == nil {
			continue
		}
		if seen++; seen > samples && (brief >= 0 || oldest >= 0 && !insist) {
			break
		}
		switch {
		case e.pinned():
		case e.brief():
			brief = s.olderLocked(brief, i)
		default:
			oldest = s.olderLocked(oldest, i)
		}
	}
	if brief < 0 {
		brief = oldest
	}
	if brief < 0 {
		return false
	}
	s.removeLocked(brief)
	return true
}

// olderLocked is i or k, whichever was silent longer; i may be none (-1).
func (s *shard) olderLocked(i, k int) int {
	if i >= 0 && s.slots[i].entry.seen.Load() <= s.slots[k].entry.seen.Load() {
		return i
	}
	return k
}
