package overlaytest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// DirectoryConfig describes a Directory. The zero value answers at once.
type DirectoryConfig struct {
	// Delay is how long it takes until something was published, withdrawn or answered,
	// and until watchers are told.
	Delay time.Duration
}

// Directory keeps overlay.Directory's entries in memory, for all networks and nodes that
// open it. It makes no goroutines and works inside a testing/synctest bubble.
type Directory struct {
	config DirectoryConfig

	mu      sync.Mutex // guards everything below
	away    bool
	order   uint64
	claims  map[place]map[overlay.PeerID]*claim
	keys    map[owner][]overlay.DirectoryKey // under which a node's entry for a MAC is
	watches map[place]map[*watch]struct{}
	counts  map[overlay.PeerID]DirectoryCounts
}

// place is a key of one network.
type place struct {
	network string
	key     overlay.DirectoryKey
}

type owner struct {
	network string
	peer    overlay.PeerID
	mac     tap.MAC
}

type claim struct {
	signed []byte
	order  uint64
	until  time.Time
}

type watch struct {
	peer    overlay.PeerID
	changed func()
}

// DirectoryCounts is what one node asked of a Directory: calls, calls of its watches, and the bytes of
// records and keys both ways.
type DirectoryCounts struct{ Publishes, Withdrawals, Lookups, Changes, Bytes uint64 }

// Messages is how many messages the node and a server would have exchanged.
func (c DirectoryCounts) Messages() uint64 {
	return 2*(c.Publishes+c.Withdrawals+c.Lookups) + c.Changes
}

// NewDirectory makes an empty one.
func NewDirectory(config DirectoryConfig) *Directory {
	d := &Directory{config: config, counts: map[overlay.PeerID]DirectoryCounts{}, watches: map[place]map[*watch]struct{}{}}
	d.clearLocked()
	return d
}

func (d *Directory) clearLocked() {
	d.claims, d.keys = map[place]map[overlay.PeerID]*claim{}, map[owner][]overlay.DirectoryKey{}
}

// SetAway, while on, makes every call fail, as when the server cannot be reached. Watchers are told
// when it is back.
func (d *Directory) SetAway(on bool) {
	d.mu.Lock()
	d.away = on
	var tell []*watch
	if !on {
		tell = d.watchersLocked(nil)
	}
	d.mu.Unlock()
	d.tell(tell)
}

// Reset loses everything that was published, as a store in memory does that is restarted.
func (d *Directory) Reset() {
	d.mu.Lock()
	d.clearLocked()
	tell := d.watchersLocked(nil)
	d.mu.Unlock()
	d.tell(tell)
}

// Forge keeps anything as peer's claim to a key, before all others, as a server that lies could.
func (d *Directory) Forge(network string, key overlay.DirectoryKey, peer overlay.PeerID, signed []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := place{network, key}
	if d.claims[at] == nil {
		d.claims[at] = map[overlay.PeerID]*claim{}
	}
	d.claims[at][peer] = &claim{slices.Clone(signed), 0, time.Now().Add(overlay.MaxEntryLife)}
}

// Counts is a snapshot of what a node asked so far.
func (d *Directory) Counts(peer overlay.PeerID) DirectoryCounts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[peer]
}

// Opener opens the Directory for a node.
func (d *Directory) Opener() overlay.DirectoryOpener {
	return func(ctx context.Context, env overlay.DirectoryEnv) (overlay.Directory, error) {
		if err := ctx.Err(); err != nil {
			return nil, &overlay.OpError{Op: "directory", Err: err}
		}
		return &directoryClient{directory: d, peer: env.Identity.ID(), network: env.Network, done: make(chan struct{})}, nil
	}
}

// watchersLocked are all watches, or those of some places.
func (d *Directory) watchersLocked(at []place) (list []*watch) {
	if at == nil {
		for _, set := range d.watches {
			for w := range set {
				list = append(list, w)
			}
		}
	}
	for _, p := range at {
		for w := range d.watches[p] {
			list = append(list, w)
		}
	}
	for _, w := range list {
		d.countLocked(w.peer, func(c *DirectoryCounts) { c.Changes++; c.Bytes += overlay.MaxEntry / 4 })
	}
	return list
}

// tell calls watchers, not under the lock.
func (d *Directory) tell(list []*watch) {
	for _, w := range list {
		if d.config.Delay > 0 {
			time.AfterFunc(d.config.Delay, w.changed)
		} else {
			w.changed()
		}
	}
}

func (d *Directory) countLocked(peer overlay.PeerID, f func(*DirectoryCounts)) {
	c := d.counts[peer]
	f(&c)
	d.counts[peer] = c
}

// removeLocked takes a node's entry for a MAC from under some keys.
func (d *Directory) removeLocked(o owner, keys []overlay.DirectoryKey) {
	for _, k := range keys {
		at := place{o.network, k}
		delete(d.claims[at], o.peer)
		if len(d.claims[at]) == 0 {
			delete(d.claims, at)
		}
	}
}

// directoryClient is a Directory as one node has opened it.
type directoryClient struct {
	directory *Directory
	peer      overlay.PeerID
	network   string
	done      chan struct{}
	closeOnce sync.Once
}

// errAway is what calls fail with while the Directory is away.
var errAway = errors.New("overlaytest: the directory is away")

// begin waits for as long as the Directory takes, and locks it.
func (c *directoryClient) begin(ctx context.Context) error {
	err := ctx.Err()
	if d := c.directory.config.Delay; d > 0 && err == nil {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.done:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	select {
	case <-c.done:
		err = overlay.ErrClosed
	default:
	}
	if err == nil {
		c.directory.mu.Lock()
		if !c.directory.away {
			return nil
		}
		c.directory.mu.Unlock()
		err = errAway
	}
	return &overlay.OpError{Op: "directory", Err: err}
}

// Publish keeps a copy.
func (c *directoryClient) Publish(ctx context.Context, r overlay.Record) error {
	if r.Peer != c.peer {
		return &overlay.OpError{Op: "publish", Peer: r.Peer, Err: overlay.ErrEntry}
	}
	if err := c.begin(ctx); err != nil {
		return err
	}
	d, now := c.directory, time.Now()
	o, keys := owner{c.network, c.peer, r.MAC}, r.Keys()
	d.countLocked(c.peer, func(n *DirectoryCounts) { n.Publishes++; n.Bytes += uint64(len(r.Signed)) })
	d.removeLocked(o, slices.DeleteFunc(d.keys[o], func(k overlay.DirectoryKey) bool { return slices.Contains(keys, k) }))
	d.keys[o] = keys
	var at []place
	for _, k := range keys {
		p := place{c.network, k}
		at = append(at, p)
		if d.claims[p] == nil {
			d.claims[p] = map[overlay.PeerID]*claim{}
		}
		old := d.claims[p][c.peer]
		if old == nil || !now.Before(old.until) {
			d.order++
			old = &claim{order: d.order}
		}
		d.claims[p][c.peer] = &claim{slices.Clone(r.Signed), old.order, now.Add(r.Life)}
	}
	tell := d.watchersLocked(at)
	d.mu.Unlock()
	d.tell(tell)
	return nil
}

// Withdraw forgets at once.
func (c *directoryClient) Withdraw(ctx context.Context, mac tap.MAC) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	d, o := c.directory, owner{c.network, c.peer, mac}
	d.countLocked(c.peer, func(n *DirectoryCounts) { n.Withdrawals++ })
	keys := d.keys[o]
	delete(d.keys, o)
	d.removeLocked(o, keys)
	var at []place
	for _, k := range keys {
		at = append(at, place{c.network, k})
	}
	var tell []*watch
	if at != nil {
		tell = d.watchersLocked(at)
	}
	d.mu.Unlock()
	d.tell(tell)
	return nil
}

// Lookup returns copies.
func (c *directoryClient) Lookup(ctx context.Context, key overlay.DirectoryKey) ([]overlay.Claim, error) {
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	d := c.directory
	defer d.mu.Unlock()
	now := time.Now()
	var list []overlay.Claim
	for peer, l := range d.claims[place{c.network, key}] {
		if !now.Before(l.until) {
			delete(d.claims[place{c.network, key}], peer)
			continue
		}
		list = append(list, overlay.Claim{Signed: slices.Clone(l.signed), Order: l.order})
	}
	slices.SortFunc(list, func(a, b overlay.Claim) int { return cmp.Compare(a.Order, b.Order) })
	list = list[:min(len(list), overlay.MaxClaims)]
	d.countLocked(c.peer, func(n *DirectoryCounts) {
		n.Lookups++
		n.Bytes += uint64(len(key))
		for _, l := range list {
			n.Bytes += uint64(len(l.Signed))
		}
	})
	return list, nil
}

// Watch works while the Directory is away.
func (c *directoryClient) Watch(key overlay.DirectoryKey, changed func()) (stop func()) {
	d, at, w := c.directory, place{c.network, key}, &watch{c.peer, changed}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watches[at] == nil {
		d.watches[at] = map[*watch]struct{}{}
	}
	d.watches[at][w] = struct{}{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watches[at], w)
		if len(d.watches[at]) == 0 {
			delete(d.watches, at)
		}
	}
}

// Close is idempotent.
func (c *directoryClient) Close() error {
	c.closeOnce.Do(func() { close(c.done) })
	return nil
}
