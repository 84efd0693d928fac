package icedtls

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/tap"
)

// data is the fast half of a Link: frames in data records (docs/protocol.md), under keys
// that the association exported.
//
//	each end: exports the secret, can open from now on
//	   ── hello: version, epoch, our index ──►   under DTLS, each tick until confirmed
//	each end, which has the other's hello: can seal
//	   ── confirm: an empty data record ─────►   each tick until confirmed
//	each end that opened any record of the other's in this epoch: seals its frames
//
// Until then, and for good where the path drops data records, frames travel in DTLS
// records. So nothing is ever sent in a way that the peer was not seen to take.
type data struct {
	link   *link
	role   record.Role
	opener *record.Opener // RecvBatch's
	secret []byte         // until it has made the Sealer; guarded by mu

	active atomic.Bool // the Sealer is in use
	heard  atomic.Bool // a data record of the peer's was opened
	ticks  int         // watch's

	mu     sync.Mutex // guards sealing: one goroutine at a time
	sealer *record.Sealer
	out    [][]byte // of one SendBatch
}

const (
	exporterLabel = "EXPERIMENTAL-vias-data"
	helloVersion  = 1
	helloLen      = 1 + 1 + 1 + 4 // type, version, epoch, index
	firstEpoch    = 1
	// helloTicks is for how many ticks an end says hello at each; then seldom: the path may
	// not take data records.
	helloTicks   = 40
	helloSeldom  = 40
	dataHeadroom = record.HeaderLen + 1
)

// init exports the keys. DTLSOnly leaves all as it is: without a hello of ours the peer
// never seals.
func (d *data) init(l *link) error {
	d.link, d.role = l, record.Server
	if l.session.dialler {
		d.role = record.Client
	}
	if l.session.transport.config.DTLSOnly {
		return nil
	}
	state, ok := l.conn.ConnectionState()
	if !ok {
		return fmt.Errorf("no state of the association to export keys from")
	}
	secret, err := state.ExportKeyingMaterial(exporterLabel, nil, record.SecretLen)
	if err != nil {
		return fmt.Errorf("export keys: %w", err)
	}
	d.secret = secret
	d.opener, err = record.NewOpener(secret, 1-d.role, firstEpoch)
	return err
}

// tick says what is not confirmed yet.
func (d *data) tick() {
	if d.opener == nil || d.active.Load() {
		return
	}
	if d.ticks++; d.ticks > helloTicks && d.ticks%helloSeldom != 0 {
		return
	}
	d.sayHello()
	d.confirm()
}

func (d *data) sayHello() {
	b := append(make([]byte, 0, helloLen), recordHello, helloVersion, firstEpoch)
	d.link.writeDTLS(binary.BigEndian.AppendUint32(b, d.link.session.cid))
}

// hello takes the peer's. One that comes after we are done is of a peer that is not.
func (d *data) hello(b []byte) {
	if d.opener == nil || len(b) != helloLen || b[1] != helloVersion || b[2] != firstEpoch {
		return
	}
	d.mu.Lock()
	if d.sealer == nil {
		// The secret's length is right, so this cannot fail.
		d.sealer, _ = record.NewSealer(d.secret, d.role, firstEpoch, binary.BigEndian.Uint32(b[3:]))
		clear(d.secret)
	} else if d.active.Load() {
		defer d.sayHello()
	}
	d.mu.Unlock()
	d.settle()
	d.confirm()
}

// confirm sends an empty data record, if we can.
func (d *data) confirm() { d.seal([]byte{recordConfirm}) }

// settle: from now on frames are sealed, if all that it takes is there.
func (d *data) settle() {
	if d.active.Load() || !d.heard.Load() {
		return
	}
	d.mu.Lock()
	ready := d.sealer != nil
	d.mu.Unlock()
	if ready && !d.active.Swap(true) {
		d.confirm() // the peer may have nothing of ours yet
	}
}

// write sends a record of our own; false: not by this way.
func (d *data) write(text []byte) bool { return d.active.Load() && d.seal(text) }

func (d *data) seal(text []byte) bool {
	mem := make([]byte, record.HeaderLen+len(text)+record.TagLen)
	copy(mem[record.HeaderLen:], text)
	to, ok := d.to()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !ok || d.sealer == nil {
		return false
	}
	r, err := d.sealer.Seal(mem, record.HeaderLen, len(text))
	if err != nil {
		return false
	}
	_, err = d.link.session.transport.socket.send(r, to)
	return err == nil
}

func (d *data) to() (netip.AddrPort, bool) {
	p := d.link.session.path.Load()
	if p == nil {
		return netip.AddrPort{}, false
	}
	return p.Remote, true
}

// send sends a batch; false: not by this way.
func (d *data) send(b *tap.Batch, mtu int) (bool, error) {
	to, ok := d.to()
	if !ok || !d.active.Load() {
		return false, nil
	}
	l := d.link
	select {
	case <-l.done:
		return true, l.final()
	default:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out = d.out[:0]
	for i := range b.Len() {
		mem, off, n := b.Room(i)
		if n == 0 || n > mtu || off < dataHeadroom {
			l.session.transport.dropped.Add(1)
			continue
		}
		mem[off-1] = recordData
		r, err := d.sealer.Seal(mem, off-1, n+1)
		if err != nil {
			return true, l.writeFailed(err)
		}
		d.out = append(d.out, r)
	}
	if len(d.out) == 0 {
		return true, nil
	}
	if err := l.session.transport.socket.sendAll(d.out, to); err != nil {
		return true, l.writeFailed(err)
	}
	l.said.Store(l.now())
	return true, nil
}

// open appends to b what the records of a run hold; false: there is more than fits.
func (d *data) open(b *tap.Batch, run *buffer) (whole bool) {
	for run.at < run.n {
		sealed := run.data[run.at:min(run.at+run.size, run.n)]
		n := len(sealed) - record.Overhead
		room := b.Reserve(max(n, 0))
		if room == nil {
			if b.Len() > 0 {
				return false
			}
			d.link.session.transport.dropped.Add(1) // no batch of this size will ever hold it
		} else if d.text(room, sealed) {
			b.Commit(n, tap.Offload{})
			b.Trim(b.Len()-1, 1)
		}
		run.at += run.size
	}
	return true
}

// text opens one record into room, which is as long as what it holds. true: it is a frame.
func (d *data) text(room, sealed []byte) bool {
	l := d.link
	if d.opener == nil {
		l.session.transport.dropped.Add(1)
		return false
	}
	text, err := d.opener.Open(room[:0], sealed)
	if err != nil || len(text) == 0 {
		l.session.transport.dropped.Add(1)
		return false
	}
	l.heard.Store(l.now())
	if !d.heard.Load() {
		d.heard.Store(true)
		d.settle()
	}
	switch text[0] {
	case recordData:
		return len(text) > 1
	case recordPing:
		if len(text) == 9 {
			text[0] = recordPong
			l.write(text)
		}
	case recordPong:
		l.pong(text)
	}
	return false
}
