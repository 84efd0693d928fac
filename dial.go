package vias

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/viasnet/vias/overlay"
)

// connect returns a link that the peer made or that we dialled; nil: neither
// worked, or ctx ended.
func (p *peer) connect(ctx context.Context, r *running, retry *backoff) overlay.Link {
	if !p.wanted() {
		return p.await(ctx, r, retry)
	}
	wait := timeTo(retry.due)
	if p.network.self.Compare(p.id) > 0 {
		wait = max(wait, patience)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case link := <-p.offered:
			return link
		case <-ctx.Done():
			return nil
		case <-p.ask: // traffic has no patience, but the back-off stays
			t.Reset(timeTo(retry.due))
		case <-p.nudge:
			return p.dial(ctx, r, retry)
		case <-t.C:
			return p.dial(ctx, r, retry)
		}
	}
}

func (p *peer) wanted() bool {
	p.network.mu.Lock()
	defer p.network.mu.Unlock()
	return p.added
}

// dial dials until a link comes from either side.
func (p *peer) dial(ctx context.Context, r *running, retry *backoff) overlay.Link {
	type result struct {
		link overlay.Link
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialled := make(chan result, 1)
	go func() {
		link, err := r.transport.Dial(ctx, p.id)
		dialled <- result{link, err}
	}()
	var theirs overlay.Link
	for {
		select {
		case theirs = <-p.offered:
			cancel()
			if d := <-dialled; d.err == nil {
				_ = d.link.Close()
			}
			return theirs
		case d := <-dialled:
			if d.err == nil {
				p.ours = true
				return d.link
			}
			if ctx.Err() == nil {
				retry.fail(time.Now())
				p.note(PeerConnecting, d.err, retry.due)
				p.failedNow(time.Now())
			}
			return nil
		}
	}
}

// backoff is when to dial next: at once first, then later and later, with jitter
// so that two peers (or many) do not keep meeting.
type backoff struct {
	wait time.Duration
	due  time.Time
}

// timeTo is how long to set a timer for, so that it fires at at: never for nothing. Under the race detector, in a bubble
// of testing/synctest, two goroutines that select on timers which are due already corrupt memory (Go 1.26: the runtime
// runs both with one context of the race detector).
func timeTo(at time.Time) time.Duration { return max(time.Until(at), 1) }

func (b *backoff) fail(now time.Time) {
	b.wait = min(max(2*b.wait, firstRetry), lastRetry)
	b.due = now.Add(b.wait/2 + rand.N(b.wait/2+1))
}
