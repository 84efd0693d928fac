package tap

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunReader is the reading half of a tun: one goroutine's, but for dropped.
type tunReader struct {
	raw     syscall.RawConn
	limit   int                // longest frame that can come
	ready   func(uintptr) bool // r.drain, bound once so that a read allocates nothing
	batch   *Batch
	err     error
	dropped atomic.Uint64
}

func (r *tunReader) init(raw syscall.RawConn, limit int) {
	r.raw, r.limit, r.ready = raw, limit, r.drain
}

func (r *tunReader) read(b *Batch) error {
	b.Reset()
	if b.Free() == 0 {
		return errNoRoom
	}
	r.batch, r.err = b, nil
	err := r.raw.Read(r.ready)
	r.batch = nil
	if err != nil {
		return err
	}
	return r.err
}

// drain reads until the device is empty or the batch might not hold the next
// frame; false asks the poller to wait. Every frame is read straight into the
// batch, its virtio header into the headroom.
func (r *tunReader) drain(fd uintptr) bool {
	b := r.batch
	for b.Free() >= r.limit || b.Len() == 0 {
		room := min(b.Free(), r.limit)
		// The kernel cuts a frame that does not fit and does not say so: one byte
		// of tailroom more than we take tells.
		off := b.end + Headroom
		n, err := transfer(unix.SYS_READ, fd, b.mem[off-virtioHeaderLen:off+room+1])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return b.Len() > 0
		case err != 0 && b.Len() > 0:
			return true // the next call meets it again
		case err != 0:
			r.err = err
			return true
		}
		n -= virtioHeaderLen
		if n < HeaderLen || n > room {
			r.dropped.Add(1)
			continue
		}
		o, ok := parseVirtio(b.mem[off-virtioHeaderLen : off])
		if !ok {
			r.dropped.Add(1)
			continue
		}
		b.Commit(n, o)
	}
	return true
}

// transfer reads or writes p. The file is non-blocking, so the runtime need not be told: a
// RawSyscall keeps its processor for the some 10 us that the kernel takes, where a Syscall may lose
// it, and wakes the runtime's monitor each time the program was idle.
func transfer(trap, fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

// tunWriter is the writing half of a tun: one goroutine's, but for dropped.
type tunWriter struct {
	raw     syscall.RawConn
	mtu     int
	caps    Caps
	ready   func(uintptr) bool
	batch   *Batch
	next    int // first frame not yet written
	err     error
	dropped atomic.Uint64
}

func (w *tunWriter) init(raw syscall.RawConn, mtu int, caps Caps) {
	w.raw, w.mtu, w.caps, w.ready = raw, mtu, caps, w.flush
}

func (w *tunWriter) write(b *Batch) error {
	w.batch, w.next, w.err = b, 0, nil
	err := w.raw.Write(w.ready)
	w.batch = nil
	if err != nil {
		return err
	}
	return w.err
}

// flush writes from w.next on; false asks the poller to wait until the kernel
// takes more.
func (w *tunWriter) flush(fd uintptr) bool {
	for w.next < w.batch.Len() {
		if !w.acceptable(w.next) {
			w.dropped.Add(1)
			w.next++
			continue
		}
		switch err := w.writeFrame(fd, w.next); err {
		case 0:
			w.next++
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		case unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM:
			// Link down, or a frame the kernel does not take: as on a wire.
			w.dropped.Add(1)
			w.next++
		default:
			w.err = err
			return true
		}
	}
	return true
}

// acceptable keeps back what the kernel would take but a NIC would not: frames
// over the MTU, and offloads that this Device does not offer.
func (w *tunWriter) acceptable(i int) bool {
	o := w.batch.Offload(i)
	switch {
	case o == (Offload{}):
		return Fits(w.batch.Frame(i), w.mtu)
	case !w.caps.Offload || o.GSO == GSOUDP && !w.caps.USO:
		return false
	case o.GSO == GSONone:
		return Fits(w.batch.Frame(i), w.mtu)
	}
	return int(o.SegmentSize) <= w.mtu
}

// writeFrame puts the virtio header into the frame's headroom and writes both.
func (w *tunWriter) writeFrame(fd uintptr, i int) syscall.Errno {
	mem, off, n := w.batch.Room(i)
	if off < virtioHeaderLen { // somebody used up the headroom; rare, so it may allocate
		mem = append(make([]byte, virtioHeaderLen), mem[off:off+n]...)
		off = virtioHeaderLen
	}
	p := mem[off-virtioHeaderLen : off+n]
	putVirtio(p, w.batch.Offload(i))
	_, err := transfer(unix.SYS_WRITE, fd, p)
	return err
}
