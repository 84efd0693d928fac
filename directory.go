package vias

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
)

// DirectoryStatus is a snapshot of how it is with the directory.
type DirectoryStatus struct {
	// Err is why the directory did not answer when it was asked last; nil: it did, or
	// there is none. Links go on without it; what is not known yet waits for it.
	Err error
	// Since is when the directory was asked for the first time that way.
	Since time.Time
	// Published is how many endpoints of ours it has.
	Published int
	// Searches are addresses that are being looked for.
	Searches int
	// Conflicts over addresses of our endpoints: another node publishes them, too. Who
	// came first is the Holder: zero is this node.
	Conflicts []Conflict
}

// directoryHealth is how the directory answered last.
type directoryHealth struct {
	mu    sync.Mutex // guards what follows
	err   error
	since time.Time
}

func (h *directoryHealth) failing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err != nil
}

// directoryAnswered notes how the directory answered.
func (n *Network) directoryAnswered(err error, now time.Time) {
	h := &n.health
	h.mu.Lock()
	was, first := h.err, h.since.IsZero()
	h.err = err
	turned := (was == nil) != (err == nil)
	if turned || first {
		h.since = now
	}
	h.mu.Unlock()
	switch {
	case err != nil && (turned || first):
		n.log.Warn("the directory does not answer; links go on", "err", err)
	case turned:
		n.log.Info("the directory answers")
		n.publisher.poke()
		n.guardAll() // what was announced meanwhile
	}
}

// guardAll has all that peers announced looked up.
func (n *Network) guardAll() {
	for _, p := range n.Peers() {
		n.finder.guard(p.ID, n.shared.Stations.Of(p.ID))
	}
}

// Directory is a snapshot; zero without Config.Directory.
func (n *Network) Directory() DirectoryStatus {
	if n.finder == nil {
		return DirectoryStatus{}
	}
	h, p, f := &n.health, &n.publisher, n.finder
	h.mu.Lock()
	s := DirectoryStatus{Err: h.err, Since: h.since}
	h.mu.Unlock()
	p.mu.Lock()
	s.Published = p.count
	for _, list := range p.conflicts {
		s.Conflicts = append(s.Conflicts, list...)
	}
	p.mu.Unlock()
	slices.SortFunc(s.Conflicts, func(a, b Conflict) int {
		if c := slices.Compare(a.MAC[:], b.MAC[:]); c != 0 {
			return c
		}
		return a.IP.Compare(b.IP)
	})
	f.mu.Lock()
	s.Searches = len(f.searches)
	f.mu.Unlock()
	return s
}

// openDirectory opens it, if there is one.
func (n *Network) openDirectory(ctx context.Context, r *running) (err error) {
	if n.finder == nil {
		return nil
	}
	r.directory, err = n.config.Directory(ctx, overlay.DirectoryEnv{Identity: n.config.Identity, Network: n.config.Name, Logger: n.log})
	n.finder.directory = r.directory
	return err
}

// closeDirectory is the last: the publisher withdraws what it has there when it ends.
func (r *running) closeDirectory(log *slog.Logger) {
	if r.directory == nil {
		return
	}
	if err := r.directory.Close(); err != nil {
		log.Warn("closing the directory failed", "err", err)
	}
}

// pumpFinder is the finder as the pump has it.
func (n *Network) pumpFinder() pump.Finder {
	if n.finder == nil {
		return nil // not a Finder that is a nil *finder
	}
	return n.finder
}
