package tap

// Headroom bytes before and Tailroom bytes behind each frame of a [Batch] belong
// to whoever holds the batch: a virtio header, a record header, an AEAD tag can be
// put there without moving the frame.
const (
	Headroom = 64
	Tailroom = 32
)

// MaxFrame is the longest frame a Batch takes: a 64 KB super-frame with its
// Ethernet header and a VLAN tag.
const MaxFrame = 65535 + HeaderLen + TagLen

// GSO is the kind of super-frame an [Offload] describes.
type GSO uint8

// Super-frame kinds. They mirror virtio_net_hdr's gso_type.
const (
	GSONone GSO = iota
	GSOTCP4
	GSOTCP6
	GSOUDP // UDP_SEGMENT (USO), IPv4 and IPv6 alike
)

// Offload is the work that a frame's sender left to "the hardware". Offsets and
// lengths are in bytes from the start of the Ethernet header. The zero value is a
// finished frame. Virtio 1.2, section 5.1.6.
type Offload struct {
	// NeedsChecksum: the 16-bit checksum at ChecksumStart+ChecksumOffset holds
	// only the pseudo-header's sum; it must be completed over everything from
	// ChecksumStart to the end of the frame.
	NeedsChecksum                 bool
	ChecksumStart, ChecksumOffset uint16
	// GSO other than GSONone: the frame is a super-frame that must be cut into
	// frames of SegmentSize payload bytes each (the last may be shorter).
	GSO         GSO
	SegmentSize uint16
	// HeaderLen is the length of all headers, Ethernet to TCP or UDP. It is a
	// hint of the sender's; whoever cuts the frame checks it against the headers.
	HeaderLen uint16
}

// slot is where a frame lies: its headroom starts at base, which never moves.
type slot struct {
	base, off, n int
	offload      Offload
}

// Batch is an ordered set of frames (or, between a Link and the core, datagrams)
// in one block of memory that it owns and reuses. It never grows: when a frame
// does not fit, the batch is full.
//
// A Batch belongs to one goroutine at a time. Slices got from it are valid until
// the next Reset or until the batch is handed on.
type Batch struct {
	mem   []byte
	slots []slot
	end   int // first free byte of mem

	urgent bool
	source Source // of a batch that Lend made
	lent   *Batch // whose memory b has now
}

// NewBatch makes a batch for at most frames frames and bytes bytes of frame
// data; room for Headroom and Tailroom comes on top.
func NewBatch(frames, bytes int) *Batch {
	return &Batch{
		mem:   make([]byte, bytes+frames*(Headroom+Tailroom)),
		slots: make([]slot, 0, frames),
	}
}

// Reset empties the batch. Slices got from it are no longer valid.
func (b *Batch) Reset() { b.slots, b.end, b.urgent = b.slots[:0], 0, false }

// SetUrgent marks a batch that is little and matters, until Reset. Whoever queues and drops
// frames keeps room for it where others have filled the queue.
func (b *Batch) SetUrgent() { b.urgent = true }

// Urgent tells whether SetUrgent was called.
func (b *Batch) Urgent() bool { return b.urgent }

// Len is the number of frames.
func (b *Batch) Len() int { return len(b.slots) }

// Frame is the i-th frame. Writing to it changes the frame in place.
func (b *Batch) Frame(i int) []byte {
	s := &b.slots[i]
	return b.mem[s.off : s.off+s.n : s.off+s.n]
}

// Offload is what the i-th frame's sender left undone.
func (b *Batch) Offload(i int) Offload { return b.slots[i].offload }

// SetOffload replaces the i-th frame's Offload.
func (b *Batch) SetOffload(i int, o Offload) { b.slots[i].offload = o }

// Room is the memory of the i-th frame from the start of its headroom to Tailroom
// bytes behind it, and the frame's offset and length in it. The headroom left is
// off: Headroom bytes, plus or minus what Trim cut or took.
func (b *Batch) Room(i int) (mem []byte, off, n int) {
	s := &b.slots[i]
	hi := s.off + s.n + Tailroom
	return b.mem[s.base:hi:hi], s.off - s.base, s.n
}

// Trim cuts n bytes from the front of the i-th frame, at most its length; a
// negative n takes -n bytes of its headroom instead, at most what Room says is
// left. Offload offsets are moved along; one that would point before the frame
// becomes 0.
func (b *Batch) Trim(i, n int) {
	s := &b.slots[i]
	s.off += n
	s.n -= n
	if o := &s.offload; o.NeedsChecksum {
		o.ChecksumStart = uint16(max(0, int(o.ChecksumStart)-n))
	}
	if o := &s.offload; o.HeaderLen != 0 { // 0 is "no hint" and stays so
		o.HeaderLen = uint16(max(0, int(o.HeaderLen)-n))
	}
}

// Free is how long a frame could still be appended; 0 when the batch is full.
func (b *Batch) Free() int {
	if b.mem == nil {
		b.borrow()
	}
	if len(b.slots) == cap(b.slots) {
		return 0
	}
	return max(0, len(b.mem)-b.end-Headroom-Tailroom)
}

// fits tells whether a frame of n bytes, which may be 0, could be appended.
func (b *Batch) fits(n int) bool {
	return len(b.slots) < cap(b.slots) && n <= len(b.mem)-b.end-Headroom-Tailroom
}

// Reserve returns n bytes of memory for the next frame, or nil when the batch is
// full. Nothing is part of the batch until Commit.
func (b *Batch) Reserve(n int) []byte { return b.ReserveHeadroom(0, n) }

// ReserveHeadroom is Reserve with the h bytes of headroom before the frame (h at
// most Headroom) in front: readv-style devices put their header there.
func (b *Batch) ReserveHeadroom(h, n int) []byte {
	if b.mem == nil {
		b.borrow()
	}
	if !b.fits(n) {
		return nil
	}
	off := b.end + Headroom
	return b.mem[off-h : off+n : off+n]
}

// Commit makes the first n bytes of what Reserve returned (behind the headroom)
// the next frame. It is legal only after a Reserve that did not return nil.
func (b *Batch) Commit(n int, o Offload) {
	b.slots = append(b.slots, slot{b.end, b.end + Headroom, n, o})
	b.end += Headroom + n + Tailroom
}

// Append copies frame into the batch; false means that it does not fit.
func (b *Batch) Append(frame []byte, o Offload) bool {
	p := b.Reserve(len(frame))
	if p == nil {
		return false
	}
	b.Commit(copy(p, frame), o)
	return true
}

// Drop removes the frames for which keep returns false, in order, without moving
// memory: their places are free again at once, their bytes only after Reset.
func (b *Batch) Drop(keep func(i int) bool) {
	k := 0
	for i := range b.slots {
		if keep(i) {
			b.slots[k] = b.slots[i]
			k++
		}
	}
	b.slots = b.slots[:k]
}
