package tap

// Source has batches for those who need one for a short time. Several goroutines may use it.
type Source interface {
	// Get returns an empty batch, and Put takes it back, empty again.
	Get() *Batch
	Put(b *Batch)
}

// Lend returns an empty batch that has memory, that of one of s, from when a frame is put into it, or it is
// asked for room, until Release. A thousand who wait for frames, each with one, so hold none.
func Lend(s Source) *Batch { return &Batch{source: s} }

// borrow gets the memory of a batch that Lend made.
func (b *Batch) borrow() {
	if b.source == nil {
		return // one for no bytes
	}
	b.lent = b.source.Get()
	b.mem, b.slots = b.lent.mem, b.lent.slots
}

// Release empties a batch that Lend made and gives its memory back. Of another it is Reset.
func (b *Batch) Release() {
	b.Reset()
	if b.lent != nil {
		b.source.Put(b.lent)
		b.lent, b.mem, b.slots = nil, nil, nil
	}
}
