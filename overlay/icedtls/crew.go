package icedtls

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/tap"
)

// crew are a Transport's goroutines that help whoever has many records to seal or to open at
// once. A long batch is divided, and is done when all its parts are: so records leave and arrive in
// their order, none waits in a queue, and nobody owns them but the caller. Where no processor is
// free there is no help, and nothing is waited for but what was begun.
type crew struct {
	helpers int
	jobs    chan *job
}

// job is work in parts that do not depend on each other. It is made once, for one caller.
type job struct {
	part  func(i int)
	parts int32
	next  atomic.Int32
	help  sync.WaitGroup
}

const (
	// partRecords are sealed or opened as one part: some 5 us of work, as long as it takes to wake
	// somebody.
	partRecords = 16
	// manyRecords are worth help.
	manyRecords = 2 * partRecords
	mostWorkers = 3
)

// workers is how many helpers there are by default: none where both processors are busy with the
// two ways through this node anyway.
func workers(config int) int {
	switch {
	case config > 0:
		return config
	case config < 0:
		return 0
	}
	return min(max(runtime.GOMAXPROCS(0)/2-1, 0), mostWorkers)
}

// newCrew starts n helpers, for as long as life lasts.
func newCrew(life context.Context, n int, start func(func())) *crew {
	c := &crew{helpers: n, jobs: make(chan *job)}
	for range n {
		start(func() { c.help(life.Done()) })
	}
	return c
}

func (c *crew) help(end <-chan struct{}) {
	for {
		select {
		case j := <-c.jobs:
			j.work()
			j.help.Done()
		case <-end:
			return
		}
	}
}

// do does so many parts of j, with the help of who is free, and returns when all are done.
func (c *crew) do(j *job, parts int) {
	j.parts = int32(parts)
	j.next.Store(0)
	for free := parts > 1; free; {
		j.help.Add(1)
		select {
		case c.jobs <- j:
		default:
			j.help.Done()
			free = false
		}
	}
	j.work()
	j.help.Wait()
}

func (j *job) work() {
	for i := j.next.Add(1) - 1; i < j.parts; i = j.next.Add(1) - 1 {
		j.part(int(i))
	}
}

// parts is in how many parts n records are done.
func parts(n int) int {
	if n < manyRecords {
		return 1
	}
	return (n + partRecords - 1) / partRecords
}

// nonces are one for each part, far enough apart not to share a cache line.
type nonces []struct {
	record.Nonce
	_ [64 - len(record.Nonce{})]byte
}

func (n *nonces) grow(parts int) {
	if len(*n) < parts {
		*n = make(nonces, parts)
	}
}

// sealJob is a batch that is being sealed.
type sealJob struct {
	job
	nonces nonces
	sealer *record.Sealer
	first  uint64 // counter
	batch  *tap.Batch
	frames []int    // of batch, that go
	out    [][]byte // their records
}

// seal makes s.out of s.frames; ErrSpent: nothing was done.
func (s *sealJob) seal(c *crew, k *record.Sealer) (err error) {
	if s.first, err = k.Reserve(len(s.frames)); err != nil {
		return err
	}
	if s.part == nil {
		s.part = s.sealPart
	}
	n := parts(len(s.frames))
	s.nonces.grow(n)
	if cap(s.out) < len(s.frames) {
		s.out = make([][]byte, len(s.frames))
	}
	s.sealer, s.out = k, s.out[:len(s.frames)]
	c.do(&s.job, n)
	return nil
}

func (s *sealJob) sealPart(i int) {
	from, to := partOf(i, int(s.parts), len(s.frames))
	for k := from; k < to; k++ {
		mem, off, n := s.batch.Room(s.frames[k])
		mem[off-1] = recordData
		s.out[k] = s.sealer.SealAt(&s.nonces[i].Nonce, s.first+uint64(k), mem, off-1, n+1)
	}
}

// partOf is which of n records the i-th of so many parts has.
func partOf(i, parts, n int) (from, to int) { return i * n / parts, (i + 1) * n / parts }

// openJob is a run that is being opened.
type openJob struct {
	job
	nonces nonces
	keys   *keys
	batch  *tap.Batch
	sealed [][]byte
	first  int    // frame of batch: the others follow
	ok     []bool // they are authentic, and then: they are frames
}

// open opens what run begins with, as long as it is of one epoch, fresh and fits, into
// frames of b. It moves run.at behind it.
func (o *openJob) open(d *data, b *tap.Batch, run *buffer) {
	o.batch, o.first, o.sealed, o.keys = b, b.Len(), o.sealed[:0], nil
	for at := run.at; at < run.n; at += run.size {
		sealed := run.data[at:min(at+run.size, run.n)]
		h, ok := record.Parse(sealed)
		if !ok || len(sealed) <= smallRecord {
			break
		}
		k := d.open[h.Epoch%2]
		if k == nil || k.epoch != h.Epoch || o.keys != nil && k != o.keys || !k.opener.Fresh(h.Counter) || b.Reserve(len(sealed)-record.Overhead) == nil {
			break
		}
		b.Commit(len(sealed)-record.Overhead, tap.Offload{})
		o.keys, o.sealed, run.at = k, append(o.sealed, sealed), at+run.size
	}
	if len(o.sealed) == 0 {
		return
	}
	if o.part == nil {
		o.part = o.openPart
	}
	n := parts(len(o.sealed))
	o.nonces.grow(n)
	o.ok = slices.Grow(o.ok[:0], len(o.sealed))[:len(o.sealed)] // each is set
	d.link.session.transport.crew.do(&o.job, n)
	o.judge(d)
}

func (o *openJob) openPart(i int) {
	from, to := partOf(i, int(o.parts), len(o.sealed))
	for k := from; k < to; k++ {
		_, err := o.keys.opener.Authentic(&o.nonces[i].Nonce, o.batch.Frame(o.first + k)[:0], o.sealed[k])
		o.ok[k] = err == nil
	}
}

// judge counts, in order, what was opened, and leaves in the batch what frames are.
func (o *openJob) judge(d *data) {
	all := true
	for k, sealed := range o.sealed {
		var err error = record.ErrForged
		if o.ok[k] {
			h, _ := record.Parse(sealed)
			err = o.keys.opener.Take(h.Counter)
		}
		if err != nil {
			d.link.drops.add(openCause(err))
			o.ok[k], all = false, false
			continue
		}
		d.records++
		d.bytes += len(sealed)
		d.longest = max(d.longest, len(sealed))
		text := o.batch.Frame(o.first + k)
		o.ok[k] = len(text) > 1 && text[0] == recordData && o.keys.opened.Load() || d.take(text, o.keys)
		all = all && o.ok[k]
		o.batch.Trim(o.first+k, 1)
	}
	if !all {
		o.batch.Drop(func(i int) bool { return i < o.first || o.ok[i-o.first] })
	}
}
