package icedtls

import (
	"sync/atomic"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
)

// cause is why a datagram was dropped; overlay.Drops says what each means.
type cause uint8

const (
	causeNone cause = iota
	causeTruncated
	causeForeign
	causeUnknown
	causeEpoch
	causeReplayed
	causeForged
	causePlaintext
	causeFull
	causeSignals
	causeTooLong
	causeUnsent
	causes
)

// drops counts; it may be used by any number of goroutines.
type drops struct {
	count [causes]atomic.Uint64
	all   *drops // counts everything too: the Transport's; nil in itself
}

func (d *drops) add(c cause) {
	d.count[c].Add(1)
	if d.all != nil {
		d.all.count[c].Add(1)
	}
}

func (d *drops) snapshot() overlay.Drops {
	n := func(c cause) uint64 { return d.count[c].Load() }
	return overlay.Drops{
		Truncated: n(causeTruncated), Foreign: n(causeForeign), Unknown: n(causeUnknown), Epoch: n(causeEpoch),
		Replayed: n(causeReplayed), Forged: n(causeForged), Plaintext: n(causePlaintext), Full: n(causeFull),
		Signals: n(causeSignals), TooLong: n(causeTooLong), Unsent: n(causeUnsent),
	}
}

// openCause is why a record did not open. Open's errors are never wrapped.
func openCause(err error) cause {
	switch err {
	case record.ErrReplayed:
		return causeReplayed
	case record.ErrForged:
		return causeForged
	}
	return causeTruncated
}

// traffic counts what goes over a Link's path one way.
type traffic struct{ datagrams, bytes atomic.Uint64 }

func (t *traffic) add(datagrams, bytes int) {
	t.datagrams.Add(uint64(datagrams))
	t.bytes.Add(uint64(bytes))
}

func (t *traffic) snapshot() overlay.Traffic {
	return overlay.Traffic{Datagrams: t.datagrams.Load(), Bytes: t.bytes.Load()}
}
