package tap

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"
)

// DefaultMTU is Ethernet's, in bytes.
const DefaultMTU = 1500

// Simple makes a Device of anything that moves exactly one Ethernet frame per
// Read and per Write call: a datagram socket, a packet socket, a TAP of some other
// library opened without a header. mtu is the largest layer-3 packet in bytes;
// 0 means DefaultMTU.
//
// Frames are finished ones (Caps is zero), one a batch when reading. The Device
// owns rwc; its Close must end a Read and a Write that wait. Read may be called
// while Write is. The Device is a [Counted].
func Simple(rwc io.ReadWriteCloser, mtu int) Device {
	if mtu <= 0 {
		mtu = DefaultMTU
	}
	return &simple{rwc: rwc, mtu: mtu}
}

type simple struct {
	rwc                       io.ReadWriteCloser
	mtu                       int
	closed                    atomic.Bool
	readDropped, writeDropped atomic.Uint64
}

// maxEmptyReads in a row without a frame or an error end a ReadBatch, as in bufio.
const maxEmptyReads = 100

// ReadBatch implements Device.
func (s *simple) ReadBatch(b *Batch) error {
	b.Reset()
	if b.Free() == 0 {
		return errNoRoom
	}
	room := min(b.Free(), s.mtu+HeaderLen+TagLen)
	off := b.end + Headroom
	for empty := 0; empty < maxEmptyReads; {
		if s.closed.Load() {
			return ErrClosed
		}
		// One byte of tailroom tells a frame that is too long from one that just fits.
		p := b.mem[off : off+room+1]
		n, err := s.rwc.Read(p)
		if n > 0 && n <= room && Fits(p[:n], s.mtu) {
			b.Commit(n, Offload{})
			return nil // an error that came along comes again
		}
		if n > 0 {
			s.readDropped.Add(1)
		}
		if err != nil {
			return s.result("read", err)
		}
		if n == 0 {
			empty++
		} else {
			empty = 0
		}
	}
	return s.result("read", io.ErrNoProgress)
}

// WriteBatch implements Device.
func (s *simple) WriteBatch(b *Batch) error {
	for i := range b.Len() {
		if s.closed.Load() {
			return ErrClosed
		}
		frame := b.Frame(i)
		if b.Offload(i) != (Offload{}) || !Fits(frame, s.mtu) {
			s.writeDropped.Add(1)
			continue
		}
		n, err := s.rwc.Write(frame)
		if err == nil && n != len(frame) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return s.result("write", err)
		}
	}
	if s.closed.Load() { // also when there was nothing to write
		return ErrClosed
	}
	return nil
}

// result turns the many ways to say "closed" into ErrClosed.
func (s *simple) result(op string, err error) error {
	if s.closed.Load() || errors.Is(err, net.ErrClosed) || errors.Is(err, fs.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return ErrClosed
	}
	return fmt.Errorf("tap: %s: %w", op, err)
}

// Caps implements Device.
func (s *simple) Caps() Caps { return Caps{} }

// MTU implements Device.
func (s *simple) MTU() int { return s.mtu }

// Stats implements Counted.
func (s *simple) Stats() Stats {
	return Stats{ReadDropped: s.readDropped.Load(), WriteDropped: s.writeDropped.Load()}
}

// Close implements Device.
func (s *simple) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if err := s.rwc.Close(); err != nil {
		return fmt.Errorf("tap: close: %w", err)
	}
	return nil
}
