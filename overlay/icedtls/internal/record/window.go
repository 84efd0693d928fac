package record

// Window is how many records back one may come late: a burst of super-frames is some
// hundreds, and they may come by two paths.
const Window = 8192

// window remembers which of the last records came (RFC 6479: a ring of words, of which one
// is always being left, so that nothing is ever shifted).
type window struct {
	next uint64 // behind the highest that came
	bits [words]uint64
}

const (
	wordBits = 64
	words    = Window/wordBits + 1
)

// fresh tells whether record n may be taken.
func (w *window) fresh(n uint64) bool {
	if n >= w.next {
		return n < MaxRecords
	}
	return w.next-n <= Window && w.bits[n/wordBits%words]&(1<<(n%wordBits)) == 0
}

// note takes record n, which is fresh and authentic.
func (w *window) note(n uint64) {
	if n >= w.next {
		from, to := (w.next+wordBits-1)/wordBits, n/wordBits // words not begun yet
		if to >= from+words {
			clear(w.bits[:])
		} else {
			for i := from; i <= to; i++ {
				w.bits[i%words] = 0
			}
		}
		w.next = n + 1
	}
	w.bits[n/wordBits%words] |= 1 << (n % wordBits)
}
