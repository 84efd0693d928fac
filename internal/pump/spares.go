package pump

import (
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/seg"
	"github.com/viasnet/vias/internal/spare"
	"github.com/viasnet/vias/tap"
)

// Spares are what links need while they have received something. A link has its share only then: so
// a thousand that are idle take no memory. Several goroutines may use them.
type Spares struct {
	batches *spare.List[tap.Batch]
	desks   *spare.List[desk]
}

// NewSpares makes Spares, of which a Network needs one.
func NewSpares() *Spares {
	return &Spares{
		batches: spare.NewList(func() *tap.Batch { return tap.NewBatch(inFrames, inBytes) }),
		desks:   spare.NewList(func() *desk { return &desk{classifier: bypass.NewClassifier()} }),
	}
}

// desk is what an In works with. It holds nothing from one batch to the next.
type desk struct {
	classifier *bypass.Classifier
	packet     bypass.Packet
	keep       [inFrames]bool
	joiner     seg.Joiner
}
