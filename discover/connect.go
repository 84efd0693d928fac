package discover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// Times of a connection to the switch.
const (
	redialMin = 100 * time.Millisecond
	redialMax = 5 * time.Second
)

// connected keeps one connection after the other, until ctx ends. event is told what the switch tells;
// use works on each connection until it is lost, when lost says why, or ctx ends. without is what there is not
// meanwhile.
func (c *Config) connected(ctx context.Context, event func(ofctl.Event),
	use func(ctx context.Context, sw ofctl.Switch, lost <-chan error) error, without string,
) {
	for wait := redialMin; ctx.Err() == nil; {
		sw, err := c.Dial(ctx)
		if err == nil {
			wait = redialMin
			err = watched(ctx, sw, event, use)
			_ = sw.Close() // lost, or no longer wanted
		}
		if ctx.Err() != nil {
			return
		}
		pause := wait/2 + rand.N(wait/2+1)
		c.Logger.Warn("discover: the switch is away; "+without, "err", err, "retry", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		wait = min(2*wait, redialMax)
	}
}

// watched has use work on one connection.
func watched(ctx context.Context, sw ofctl.Switch, event func(ofctl.Event),
	use func(context.Context, ofctl.Switch, <-chan error) error,
) error {
	// use has to tell a lost connection from the end, and may have something to do with it then.
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	lost := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lost <- sw.Watch(watching, event)
	}()
	err := use(ctx, sw, lost)
	cancel()
	<-ended
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("discover: %w", err)
}
