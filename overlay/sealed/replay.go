package sealed

import (
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	// window is how far a message's stamp may be from our clock, either way.
	window = 2 * time.Minute
	// maxSeen messages of one sender are remembered one by one; before those, none is
	// taken.
	maxSeen = 64
	// sweepPause is how often we look at most for senders to forget.
	sweepPause = time.Second
)

// windows remember which messages came. For nothing else may a sender be forgotten than
// that none of its messages could be taken any more.
type windows struct {
	max   int
	all   map[overlay.PeerID]*seen
	swept int64
}

// seen is one sender's messages, by growing stamp.
type seen struct {
	entries []entry
	floor   int64 // stamps up to it are not taken
	newest  int64
}

type entry struct {
	stamp int64
	id    [idLength]byte
}

func newWindows(most int) windows { return windows{max: most, all: map[overlay.PeerID]*seen{}} }

// accept takes a message or says why not, and whether it is its sender's newest. now must
// not go back.
func (w *windows) accept(from overlay.PeerID, e entry, now int64) (newest bool, err error) {
	oldest, latest := now-window.Microseconds(), now+window.Microseconds()
	if e.stamp < oldest || e.stamp > latest {
		return false, errLate
	}
	s := w.all[from]
	if s == nil {
		if len(w.all) >= w.max && !w.sweep(oldest, now) {
			return false, errLimit
		}
		s = &seen{}
		w.all[from] = s
	}
	return s.accept(e, oldest)
}

// sweep forgets senders and tells whether there is room.
func (w *windows) sweep(oldest, now int64) bool {
	if now-w.swept < sweepPause.Microseconds() {
		return false
	}
	w.swept = now
	for id, s := range w.all {
		if s.newest < oldest {
			delete(w.all, id)
		}
	}
	return len(w.all) < w.max
}

func (s *seen) accept(e entry, oldest int64) (newest bool, err error) {
	if e.stamp <= s.floor {
		return false, errReplayed // or overtaken by very many
	}
	if slices.ContainsFunc(s.entries, func(x entry) bool { return x.id == e.id }) {
		return false, errReplayed
	}
	newest = e.stamp > s.newest
	s.newest = max(s.newest, e.stamp)
	// Those that are too old are not taken for that alone.
	s.entries = slices.DeleteFunc(s.entries, func(x entry) bool { return x.stamp < oldest })
	at, _ := slices.BinarySearchFunc(s.entries, e, func(x, y entry) int {
		if x.stamp <= y.stamp {
			return -1
		}
		return 1
	})
	s.entries = slices.Insert(s.entries, at, e)
	if len(s.entries) > maxSeen {
		s.floor = s.entries[0].stamp
		s.entries = slices.Delete(s.entries, 0, 1)
	}
	return newest, nil
}
