package icedtls

import (
	"sync"
	"time"
)

// limits bound what strangers can make us do.
type limits struct {
	offers   *bucket // signatures to verify and sessions to begin
	refusals *bucket // replies to those who are not admitted
}

func newLimits() limits {
	return limits{offers: newBucket(200, 400), refusals: newBucket(10, 20)}
}

// bucket is a token bucket.
type bucket struct {
	rate, depth float64 // tokens a second, tokens

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func newBucket(rate, depth float64) *bucket {
	return &bucket{rate: rate, depth: depth, tokens: depth, at: time.Now()}
}

func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(b.depth, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// remembered is a set that forgets the oldest when it is full.
type remembered struct {
	set  map[sessionID]struct{}
	ring []sessionID
	next int
}

func newRemembered(size int) remembered {
	return remembered{set: make(map[sessionID]struct{}, size), ring: make([]sessionID, size)}
}

func (r *remembered) has(id sessionID) bool {
	_, ok := r.set[id]
	return ok
}

func (r *remembered) add(id sessionID) {
	if r.has(id) {
		return
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next] = id
	r.set[id] = struct{}{}
	r.next = (r.next + 1) % len(r.ring)
}
