package pump

import "time"

// Bounds of what one link can make us keep.
const (
	maxAssemblies   = 32
	maxAssemblyTime = time.Second
	maxAssembled    = 256 << 10 // bytes of frames that are not complete
	bufferStep      = 2 << 10   // buffers are of multiples of this, so that they fit the next frame too
)

// reassembly puts the frames of one link together again, from fragments in any order. When it is
// full the oldest frame goes. It belongs to one goroutine, and allocates nothing once it has the
// buffers that it needs.
type reassembly struct {
	counters *Counters
	// ring has the frames in the order in which they began, the newest before next. Those that are
	// complete or given up stay until it comes round, so that repeats are known.
	ring  []assembly // nil until there is a fragment
	next  int
	open  int      // how many are not complete
	bytes int      // of all buffers, spare ones too
	spare [][]byte // buffers without a frame
}

// assembly is a frame under way.
type assembly struct {
	known         bool
	number        uint32
	count, length int
	missing       uint64 // a bit for each fragment; 0 = it is complete, or was given up
	begun         time.Time
	buffer        []byte
}

// add takes a fragment and returns the frame that it completed, or nil. The frame may be used until
// the next call.
func (r *reassembly) add(datagram []byte, now time.Time) []byte {
	f, ok := parseFragment(datagram)
	if !ok {
		r.counters.Drop(InFragment)
		return nil
	}
	a := r.find(f.number)
	if a == nil {
		a = r.begin(&f, now)
	}
	bit := uint64(1) << f.index
	switch {
	case a.count != f.count || a.length != f.length:
		r.counters.Drop(InFragment)
		return nil
	case a.missing&bit == 0:
		r.counters.Drop(InLate)
		return nil
	}
	copy(a.buffer[f.index*f.size():], f.part)
	a.missing &^= bit
	if a.missing != 0 {
		return nil
	}
	frame := a.buffer[:a.length]
	r.release(a)
	return frame
}

// find looks from the newest to the oldest: it is mostly the newest.
func (r *reassembly) find(number uint32) *assembly {
	for i := range r.ring {
		a := &r.ring[(r.next-1-i+2*maxAssemblies)%maxAssemblies]
		if !a.known {
			return nil
		}
		if a.number == number {
			return a
		}
	}
	return nil
}

// begin takes the oldest frame's place.
func (r *reassembly) begin(f *fragment, now time.Time) *assembly {
	if r.ring == nil {
		r.ring = make([]assembly, maxAssemblies)
	}
	a := &r.ring[r.next]
	r.next = (r.next + 1) % maxAssemblies
	r.giveUp(a, InCrowded)
	*a = assembly{known: true, number: f.number, count: f.count, length: f.length, begun: now}
	a.buffer = r.take(f.length)
	a.missing = 1<<f.count - 1 // all ones if count is 64
	r.open++
	return a
}

// take is a buffer of n bytes at least.
func (r *reassembly) take(n int) []byte {
	for oldest := r.next; ; {
		if b := r.takeSpare(n); b != nil {
			return b
		}
		size := ceil(n, bufferStep) * bufferStep
		switch {
		case r.bytes+size <= maxAssembled:
			r.bytes += size
			return make([]byte, size)
		case len(r.spare) > 0: // too short, all of them
			last := len(r.spare) - 1
			r.bytes -= len(r.spare[last])
			r.spare[last] = nil
			r.spare = r.spare[:last]
		default:
			r.giveUp(&r.ring[oldest], InCrowded)
			oldest = (oldest + 1) % maxAssemblies
		}
	}
}

func (r *reassembly) takeSpare(n int) []byte {
	for i, b := range r.spare {
		if len(b) >= n {
			last := len(r.spare) - 1
			r.spare[i], r.spare[last] = r.spare[last], nil
			r.spare = r.spare[:last]
			return b
		}
	}
	return nil
}

// giveUp forgets what came of a frame that is not complete.
func (r *reassembly) giveUp(a *assembly, why Drop) {
	if a.missing == 0 {
		return
	}
	r.counters.Drop(why)
	r.release(a)
}

func (r *reassembly) release(a *assembly) {
	r.spare = append(r.spare, a.buffer)
	a.buffer, a.missing = nil, 0
	r.open--
}

// expire gives up frames that began too long ago.
func (r *reassembly) expire(now time.Time) {
	if r.open == 0 {
		return
	}
	for i := range r.ring {
		if a := &r.ring[i]; a.missing != 0 && now.Sub(a.begun) >= maxAssemblyTime {
			r.giveUp(a, InIncomplete)
		}
	}
}

// end gives up all.
func (r *reassembly) end() {
	for i := range r.ring {
		r.giveUp(&r.ring[i], InIncomplete)
	}
}
