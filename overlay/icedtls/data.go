package icedtls

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/pion/dtls/v3"

	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/tap"
)

// data is the fast half of a Link: frames in data records (docs/protocol.md), under keys
// that an association exported. For each epoch of keys:
//
//	each end: exports the secret, can open from now on
//	   ── hello: epoch, our index, did we open one of yours? ──►   under DTLS, each tick
//	each end, which has the other's hello: can seal
//	   ── confirm: an empty data record ───────────────────────►   each tick
//	each end whose records the other has opened: seals all in this epoch
//
// Until the first epoch is confirmed, and for good where the path drops data records,
// frames travel in DTLS records; later epochs are made before the one in use is left
// (rekey.go). So nothing is ever sent in a way that the peer was not seen to take.
type data struct {
	link  *link
	role  record.Role
	ticks int   // of watch, since said was next
	said  *keys // watch's: what it says hello about

	// mu is held for a batch by whoever sends, reading by whoever receives, so neither
	// waits for the other.
	mu      sync.Mutex // if opening is held too, that one was locked first
	next    *keys      // not confirmed; nil = none
	sealing sealJob    // a batch that is sent
	use     atomic.Pointer[keys]

	opening sync.Mutex // guards the use of Openers
	open    [2]*keys   // by epoch modulo 2: those in use and those before or after
	many    openJob    // a run of which others open parts
	records int        // opened, and not counted yet
	bytes   int        // of those
	longest int        // of those

	renewal  renewal                // watch's
	renewals *bucket                // that the peer may begin
	answers  *bucket                // to its hellos; it says one again if it needs to
	tunnel   atomic.Pointer[tunnel] // of the association that is being made
}

// keys are those of one epoch.
type keys struct {
	epoch  uint8
	secret []byte // until there is a Sealer; guarded by mu, as sealer is until it is used
	sealer *record.Sealer
	opener *record.Opener
	opened atomic.Bool   // a record of the peer's was
	used   chan struct{} // closed when they are in use
}

const (
	exporterLabel = "EXPERIMENTAL-vias-data"
	helloVersion  = 1
	helloLen      = 1 + 1 + 1 + 1 + 4 // type, version, epoch, flags, index
	helloOpened   = 1                 // flag: the sender has opened a record of that epoch
	helloDone     = 2                 // flag: it seals in that epoch, and needs no answer
	// helloTicks is for how many ticks an end says hello at each; then at every so many:
	// the path may not take data records.
	helloTicks   = 40
	helloSeldom  = 40
	dataHeadroom = record.HeaderLen + 1
	// smallRecord is how long records of our own are at most. The socket's reader opens
	// what is no longer, so that pings are answered whether or not somebody receives.
	smallRecord = record.Overhead + pingLen
)

// init makes the first keys. DTLSOnly leaves all as it is: without a hello of ours the
// peer never seals.
func (d *data) init(l *link) error {
	d.link, d.role, d.renewals, d.answers = l, record.Server, newBucket(1.0/60, 5), newBucket(20, 20)
	if l.session.dialler {
		d.role = record.Client
	}
	if l.session.transport.config.DTLSOnly {
		return nil
	}
	_, err := d.begin(l.conn, 1)
	return err
}

// begin makes the keys of an epoch, which an association exports.
func (d *data) begin(conn *dtls.Conn, epoch uint8) (*keys, error) {
	state, ok := conn.ConnectionState()
	if !ok {
		return nil, errNoState
	}
	secret, err := state.ExportKeyingMaterial(exporterLabel, nil, record.SecretLen)
	if err != nil {
		return nil, err
	}
	k := &keys{epoch: epoch, secret: secret, used: make(chan struct{})}
	if k.opener, err = record.NewOpener(secret, 1-d.role, epoch); err != nil {
		return nil, err
	}
	d.opening.Lock()
	defer d.opening.Unlock()
	d.mu.Lock() // hello, which holds it, makes an epoch the one in use
	defer d.mu.Unlock()
	if use := d.use.Load(); use != nil && epoch != use.epoch+1 {
		return nil, errEpoch // its slot may be of keys in use
	}
	d.open[epoch%2], d.next = k, k
	return k, nil
}

// tick says what is not confirmed yet.
func (d *data) tick() {
	d.mu.Lock()
	k := d.next
	d.mu.Unlock()
	if k == nil {
		return
	}
	if d.said != k {
		d.said, d.ticks = k, 0
	}
	if d.ticks++; d.ticks <= helloTicks || d.ticks%helloSeldom == 0 {
		d.sayHello(k)
		d.confirm()
	}
}

// settled tells whether tick has nothing to say.
func (d *data) settled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next == nil
}

func (d *data) sayHello(k *keys) {
	b := append(make([]byte, 0, helloLen), recordHello, helloVersion, k.epoch, 0)
	if k.opened.Load() {
		b[3] |= helloOpened
	}
	if d.use.Load() == k {
		b[3] |= helloDone
	}
	d.link.writeDTLS(binary.BigEndian.AppendUint32(b, d.link.session.cid))
}

// hello takes the peer's. When we are done, a peer that is not is answered; one that is
// too must not be, or the two would answer each other for ever.
func (d *data) hello(b []byte) {
	if len(b) != helloLen || b[1] != helloVersion || b[3]&^(helloOpened|helloDone) != 0 {
		return
	}
	epoch, index := b[2], binary.BigEndian.Uint32(b[4:])
	if use := d.use.Load(); use != nil && use.epoch == epoch {
		if b[3]&helloDone == 0 && d.answers.take() {
			d.sayHello(use)
		}
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.next
	if k == nil || k.epoch != epoch {
		return
	}
	if k.sealer == nil {
		// The secret's length is right, so this cannot fail.
		k.sealer, _ = record.NewSealer(k.secret, d.role, epoch, index)
		clear(k.secret)
	}
	if b[3]&helloOpened == 0 {
		if d.answers.take() {
			d.sealLocked(k, []byte{recordConfirm})
		}
		return
	}
	d.next = nil
	d.use.Store(k)
	close(k.used)
}

// confirm sends an empty data record under the keys that are not confirmed, if we can.
func (d *data) confirm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next != nil && d.next.sealer != nil {
		d.sealLocked(d.next, []byte{recordConfirm})
	}
}

// write sends a record of our own; false: not by this way.
func (d *data) write(text []byte) bool {
	k := d.use.Load()
	if k == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sealLocked(k, text)
}

func (d *data) sealLocked(k *keys, text []byte) bool {
	mem := make([]byte, record.HeaderLen+len(text)+record.TagLen)
	copy(mem[record.HeaderLen:], text)
	to := d.link.session.path.Load()
	r, err := k.sealer.Seal(mem, record.HeaderLen, len(text))
	if err != nil {
		return false
	}
	d.link.out.add(1, len(r))
	_, err = to.send(d.link.session.transport.socket, r)
	return err == nil
}

// send sends a batch; false: not by this way, which keys that are spent do not have either.
func (d *data) send(b *tap.Batch, mtu int) (bool, error) {
	if d.use.Load() == nil {
		return false, nil
	}
	to := d.link.session.path.Load()
	l := d.link
	select {
	case <-l.done:
		return true, l.final()
	default:
	}
	switch n, err := d.sealAll(b, mtu, to); {
	case errors.Is(err, record.ErrSpent):
		return false, nil
	case err != nil:
		return true, l.writeFailed(err)
	case n > 0:
		l.said.Store(l.now())
	}
	return true, nil
}

// sealAll sends a batch as data records, and tells how many; ErrSpent: nothing was done.
func (d *data) sealAll(b *tap.Batch, mtu int, to *route) (int, error) {
	t := d.link.session.transport
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.sealing
	s.batch, s.frames = b, s.frames[:0]
	bytes, longest := 0, 0
	for i := range b.Len() {
		_, off, n := b.Room(i)
		if n == 0 || n > mtu || off < dataHeadroom {
			d.link.drops.add(causeTooLong)
			continue
		}
		s.frames = append(s.frames, i)
		bytes += n + 1 + record.Overhead
		longest = max(longest, n+1+record.Overhead)
	}
	if err := s.seal(t.crew, d.use.Load().sealer); err != nil {
		return 0, err
	}
	d.link.out.add(len(s.out), bytes)
	note(&d.link.mtu.sent, longest)
	return len(s.out), to.sendAll(t.socket, s.out)
}

// receiveSmall opens one short record, and takes b over. It is called by the socket's
// reader.
func (d *data) receiveSmall(b *buffer) {
	d.opening.Lock()
	text, k := d.textLocked(b.data[record.HeaderLen:record.HeaderLen], b.bytes())
	d.countLocked()
	d.opening.Unlock()
	if !d.take(text, k) {
		b.home.put(b)
		return
	}
	b.n, b.size = copy(b.data, text), 0 // as a DTLS record would have brought it
	d.link.put(b)
}

// receive appends to b what the records of a run hold; false: there is more than fits.
func (d *data) receive(b *tap.Batch, run *buffer) (whole bool) {
	d.opening.Lock()
	defer d.opening.Unlock()
	before := b.Len()
	if left := run.n - run.at; d.link.session.transport.crew.helpers > 0 && run.size > smallRecord && left >= manyRecords*run.size {
		d.many.open(d, b, run)
	}
	for whole = true; run.at < run.n; run.at += run.size {
		sealed := run.data[run.at:min(run.at+run.size, run.n)]
		room := b.Reserve(max(len(sealed)-record.Overhead, 0))
		if room == nil {
			if b.Len() > 0 {
				whole = false
				break
			}
			d.link.drops.add(causeTooLong) // no batch of this size will ever hold it
			continue
		}
		text, k := d.textLocked(room[:0], sealed)
		if len(text) > 1 && text[0] == recordData && k.opened.Load() || d.take(text, k) {
			b.Commit(len(text), tap.Offload{})
			b.Trim(b.Len()-1, 1)
		}
	}
	d.countLocked()
	if b.Len() > before {
		d.link.heard.Store(d.link.now()) // once: to tell the time costs as much as a header
	}
	return whole
}

// textLocked opens one record into dst, which has room for what it holds; nil: it is none.
func (d *data) textLocked(dst, sealed []byte) ([]byte, *keys) {
	why := causeTruncated
	if h, ok := record.Parse(sealed); ok {
		k := d.open[h.Epoch%2]
		if k == nil || k.epoch != h.Epoch {
			why = causeEpoch
		} else if text, err := k.opener.Open(dst, sealed); err != nil {
			why = openCause(err)
		} else if len(text) > 0 {
			d.records++
			d.bytes += len(sealed)
			d.longest = max(d.longest, len(sealed))
			return text, k
		}
	}
	d.link.drops.add(why)
	return nil, nil
}

// countLocked counts what was opened: once a run, since to count costs as much as to copy.
func (d *data) countLocked() {
	if d.records > 0 {
		d.link.in.add(d.records, d.bytes)
		note(&d.link.mtu.opened, d.longest)
		d.records, d.bytes, d.longest = 0, 0, 0
	}
}

// take does what an opened record asks for; true: it is a frame.
func (d *data) take(text []byte, k *keys) bool {
	if len(text) == 0 {
		return false
	}
	l := d.link
	l.heard.Store(l.now())
	if !k.opened.Load() && !k.opened.Swap(true) { // a load costs less
		d.sayHello(k)
	}
	switch text[0] {
	case recordData:
		return len(text) > 1
	case recordPing:
		if len(text) == pingLen {
			text[0] = recordPong
			l.write(text)
		}
	case recordPong:
		l.pong(text)
	case recordProbe:
		l.mtu.probed(text)
	case recordReport:
		l.mtu.reported(text)
	}
	return false
}
