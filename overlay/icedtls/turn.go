package icedtls

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v4"

	"github.com/viasnet/vias/overlay/icedtls/internal/udpio"
	"github.com/viasnet/vias/tap"
)

// Whose turn it is to read the socket. The socket's own goroutine (read) hands each link's
// runs over to whoever calls that link's RecvBatch: two wake-ups and a queue for each run. While
// all that comes is for one link, its receiver reads the socket itself instead, opens what is its
// own where it lies, and hands over the rest:
//
//	the socket's ── lendAfter runs for one link ──► away ◄──► reading
//	     ▲                                           │          │
//	     └── a run for another link, the link's end, │          │
//	         or no progress for a takeBack ──────────┴──────────┘
//
// A turn that is reading waits for the socket as the socket's own goroutine would; one that is
// away is busy with what it read. Only one that is away can be taken back.
type turn struct {
	link    *link
	reading bool
}

const (
	// lendAfter runs for one link in a row, it is lent the turn.
	lendAfter = 4
	// takeBack is how often a lent turn is looked at, and after how long without progress it
	// is taken back; takeBackIdle is how often while nothing comes.
	takeBack     = 10 * time.Millisecond
	takeBackIdle = 100 * time.Millisecond
)

// turns is the socket's part.
type turns struct {
	now  atomic.Pointer[turn] // nil = the socket's own goroutine
	back chan struct{}        // says that now has become nil
}

// give returns a turn that is held as t.
func (x *turns) give(t *turn) {
	if t != nil && x.now.CompareAndSwap(t, nil) {
		select {
		case x.back <- struct{}{}:
		default:
		}
	}
}

// reader is what reading the socket takes, but for the turn.
type reader struct {
	socket *socket
	run    *buffer
	queued bool // run was there already: others may be
	msg    *stun.Message
}

func newReader(s *socket) *reader {
	return &reader{socket: s, run: s.runs.get(), msg: new(stun.Message)}
}

// receive fills r.run, and waits for it if it is to; false: it did not, and closed says whether
// it never will.
func (r *reader) receive(wait bool) (ok, closed bool) {
	s, run := r.socket, r.run
	get := s.io.Receive
	if !wait {
		get = s.io.ReceiveNow
	}
	n, size, from, err := get(run.data)
	r.queued = !s.io.Waited()
	switch {
	case err == nil:
		run.n, run.size, run.from, run.at = n, size, from, 0
		return wait || n > 0, false
	case errors.Is(err, net.ErrClosed):
		return false, true
	case errors.Is(err, os.ErrDeadlineExceeded): // by wake
		_ = s.udp.SetReadDeadline(time.Time{})
	default: // an ICMP error of an earlier send, on some systems
		<-time.After(time.Millisecond)
	}
	return false, false
}

// handOver gives what r.run holds to its sessions. It returns the link that all of it was for,
// if there is one.
func (r *reader) handOver() *link {
	to := r.socket.ownRun(r.run)
	if to != nil && worthWhole(r.run) && to.putData(r.run) {
		r.run = r.socket.runs.get()
	} else {
		r.socket.split(r.run, r.msg)
	}
	if to == nil {
		return nil
	}
	return to.link.Load()
}

// read is the goroutine that reads the socket until it is closed.
func (s *socket) read() {
	r := newReader(s)
	watch := time.NewTimer(takeBackIdle)
	defer watch.Stop()
	var last *link
	for row := 0; ; {
		ok, closed := r.receive(true)
		if closed {
			return
		}
		if !ok {
			continue
		}
		to := r.handOver()
		if to == nil {
			continue
		}
		if to != last {
			last, row = to, 0
		}
		if row++; row >= lendAfter {
			row = 0
			s.lend(to, watch)
		}
	}
}

// lend lends the turn to l until it is back.
func (s *socket) lend(l *link, watch *time.Timer) {
	select {
	case <-s.turns.back: // of an earlier one, which was taken back meanwhile
	default:
	}
	s.turns.now.Store(&l.away)
	l.endTurn()
	progress, wait := s.io.Brought(), takeBack
	for s.turns.now.Load() != nil {
		watch.Reset(wait)
		select {
		case <-s.turns.back:
			return
		case <-watch.C:
		}
		was := progress
		if progress = s.io.Brought(); progress != was {
			wait = takeBack
			continue
		}
		s.turns.now.CompareAndSwap(&l.away, nil)
		wait = takeBackIdle
	}
}

// endTurn gives the turn back if l has ended, also if it is waiting with it.
func (l *link) endTurn() {
	select {
	case <-l.done:
		x := &l.session.transport.socket.turns
		x.give(&l.away)
		l.wake()
	default:
	}
}

// wake lets a receiver that reads the socket look at its inbox, and at whether its link ended.
func (l *link) wake() {
	s := l.session.transport.socket
	if s.turns.now.Load() == &l.reading {
		_ = s.udp.SetReadDeadline(time.Unix(1, 0))
	}
}

// readTurn reads the socket if it is l's turn, until b has something, or others gave l something.
// false: it is not l's turn (any more).
func (l *link) readTurn(b *tap.Batch) bool {
	s := l.session.transport.socket
	for wait := true; wait || l.more(b); wait = b.Len() == 0 {
		if !s.turns.now.CompareAndSwap(&l.away, &l.reading) {
			return b.Len() > 0
		}
		switch {
		case l.inbox.len() > 0: // from the association; it waits no longer
			s.turns.now.CompareAndSwap(&l.reading, &l.away)
			return b.Len() > 0
		case l.ended():
			s.turns.give(&l.reading)
			return b.Len() > 0
		case l.reader == nil:
			l.reader = newReader(s)
		}
		ok, closed := l.reader.receive(wait)
		if closed {
			s.turns.give(&l.reading)
			return b.Len() > 0
		}
		s.turns.now.CompareAndSwap(&l.reading, &l.away)
		if ok {
			l.takeRun(b)
		} else if !wait {
			return true
		}
	}
	return true
}

// followed is how long a run is behind which others may be at once: a super-frame of 64 KB
// travels in two.
const followed = 32 << 10

// maxQueued is how many short packets go on together.
const maxQueued = 16

// more tells whether to look for another run before b goes on: where packets come one by one, faster
// than they are read, those of one batch are joined. One that was waited for goes on alone.
func (l *link) more(b *tap.Batch) bool {
	follows := l.reader.run.n >= followed || l.reader.queued && b.Len() < maxQueued
	return follows && l.held == nil && b.Free() >= udpio.BufferSize
}

// takeRun opens what was read, if it is l's, or hands it over.
func (l *link) takeRun(b *tap.Batch) {
	r := l.reader
	if r.socket.ownRun(r.run) != l.session {
		if to := r.handOver(); to != nil {
			r.socket.turns.give(&l.away)
		}
		r.run.n = 0
		return
	}
	if !l.data.receive(b, r.run) {
		l.waiting.Add(int64(len(r.run.data)))
		l.held, r.run = r.run, r.socket.runs.get()
		r.run.n = 0
	}
}

func (l *link) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}
