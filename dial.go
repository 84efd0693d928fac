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
	wait := time.Until(retry.due)
	if p.network.self.Compare(p.id) > 0 {
		wait = max(wait, patience)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case link := <-p.offered:
		return link
	case <-ctx.Done():
		return nil
	case <-p.nudge:
	case <-t.C:
	}
	if !p.wanted() {
		retry.due = time.Now().Add(guestTime) // a guest comes by itself
		return nil
	}
	return p.dial(ctx, r, retry)
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
				return d.link
			}
			if ctx.Err() == nil {
				retry.fail(time.Now())
				p.note(PeerConnecting, d.err, retry.due)
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

func (b *backoff) fail(now time.Time) {
	b.wait = min(max(2*b.wait, firstRetry), lastRetry)
	b.due = now.Add(b.wait/2 + rand.N(b.wait/2+1))
}
