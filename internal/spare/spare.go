// Package spare keeps things that are expensive to make for the next who needs one.
package spare

import "sync"

// keep are kept whatever happens, so that whoever works steadily never allocates.
const keep = 4

// List is a free list: a few are kept for ever, more until the garbage collector wants their memory.
// Several goroutines may use it.
type List[T any] struct {
	mu   sync.Mutex // guards what follows
	n    int
	kept [keep]*T

	more sync.Pool
}

// NewList makes an empty List; what is not there is made by make.
func NewList[T any](make func() *T) *List[T] {
	return &List[T]{more: sync.Pool{New: func() any { return make() }}}
}

// Get takes one.
func (l *List[T]) Get() *T {
	l.mu.Lock()
	if l.n > 0 {
		l.n--
		x := l.kept[l.n]
		l.kept[l.n] = nil
		l.mu.Unlock()
		return x
	}
	l.mu.Unlock()
	return l.more.Get().(*T)
}

// Put gives one back.
func (l *List[T]) Put(x *T) {
	l.mu.Lock()
	if l.n < keep {
		l.kept[l.n] = x
		l.n++
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.more.Put(x)
}
