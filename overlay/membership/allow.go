package membership

import (
	"fmt"
	"sync"

	"github.com/viasnet/vias/overlay"
)

// AllowList is the rule that peers are admitted whose IDs are on it. The zero value
// admits nobody. Its methods may be called by several goroutines.
type AllowList struct {
	mu  sync.RWMutex
	ids map[overlay.PeerID]struct{}
}

// Allow is a list of these peers.
func Allow(ids ...overlay.PeerID) *AllowList {
	a := &AllowList{}
	a.Set(ids...)
	return a
}

// Set replaces the list. A linked peer that is not on it any more loses its link
// within a second.
func (a *AllowList) Set(ids ...overlay.PeerID) {
	set := make(map[overlay.PeerID]struct{}, len(ids))
	for _, id := range ids {
		set[id] = struct{}{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids = set
}

// Add puts a peer on the list.
func (a *AllowList) Add(id overlay.PeerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ids == nil {
		a.ids = map[overlay.PeerID]struct{}{}
	}
	a.ids[id] = struct{}{}
}

// Remove takes a peer off the list, as Set does.
func (a *AllowList) Remove(id overlay.PeerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ids, id)
}

// Credential is none: the list asks for nothing but the peer's key.
func (a *AllowList) Credential() []byte { return nil }

// Admit looks peer up.
func (a *AllowList) Admit(peer overlay.PeerID, _ []byte) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if _, ok := a.ids[peer]; !ok {
		return fmt.Errorf("%w: %s is not on the allow-list", ErrNotMember, peer.Short())
	}
	return nil
}
