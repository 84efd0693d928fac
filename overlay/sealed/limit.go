package sealed

import (
	"sync"
	"time"
)

// limits bound what anybody can make us compute or send.
type limits struct {
	opens  *bucket // decrypting and verifying, some 0.2 ms each
	cards  *bucket // signing
	stales *bucket
}

func newLimits() limits {
	return limits{opens: &bucket{rate: 500, depth: 1000}, cards: &bucket{rate: 200, depth: 400}, stales: &bucket{rate: 50, depth: 100}}
}

// bucket is a token bucket; it begins full.
type bucket struct {
	rate, depth float64 // tokens a second, tokens

	mu    sync.Mutex
	spent float64
	at    time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = max(0, b.spent-b.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.spent > b.depth-1 {
		return false
	}
	b.spent++
	return true
}
