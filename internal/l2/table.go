package l2

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrInUse: another local endpoint has the MAC, the IP or the ofport.
	ErrInUse = errors.New("address in use by another endpoint of this node")
	// ErrTooMany: a peer announced more than MaxAnnounced stations.
	ErrTooMany = errors.New("too many endpoints announced")
	// ErrGap: a delta does not follow what was announced before.
	ErrGap = errors.New("announcement does not follow the one before")
)

// Table holds every claim to an address and decides who gets it: local stations
// first, then whoever of the linked peers came first, then peers without a link
// (their workloads may have moved). All methods may be called by several goroutines.
type Table struct {
	view      atomic.Pointer[View]
	conflicts atomic.Uint64

	mu        sync.Mutex // guards everything below and serialises changes of view
	attached  map[string]*Station
	learned   map[tap.MAC]*Station
	detached  map[tap.MAC]time.Time // until when a MAC is not learned
	peers     map[overlay.PeerID]*claims
	arrivals  uint64
	refused   map[Conflict]struct{}
	held      map[address]overlay.PeerID
	learnTime time.Time // when learnLeft was filled up last
	learnLeft int
}

// claims is what one peer announced.
type claims struct {
	arrival uint64
	linked  bool
	version uint64
	list    map[tap.MAC]Endpoint
}

// New makes an empty table.
func New() *Table {
	t := &Table{
		attached: map[string]*Station{},
		learned:  map[tap.MAC]*Station{},
		detached: map[tap.MAC]time.Time{},
		peers:    map[overlay.PeerID]*claims{},
		refused:  map[Conflict]struct{}{},
		held:     map[address]overlay.PeerID{},
	}
	t.view.Store(&View{})
	return t
}

// View is the current snapshot.
func (t *Table) View() *View { return t.view.Load() }

// Conflicts counts claims refused since the start.
func (t *Table) Conflicts() uint64 { return t.conflicts.Load() }

// Attach adds or replaces the local endpoint of that Name. The endpoint must have
// passed Check and have a Name.
func (t *Table) Attach(e Endpoint, ofport uint32) (Change, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range t.attached {
		if name == e.Name {
			continue
		}
		if s.MAC == e.MAC {
			return Change{}, fmt.Errorf("%v is %q's: %w", e.MAC, name, ErrInUse)
		}
		if ofport != 0 && s.Ofport == ofport {
			return Change{}, fmt.Errorf("ofport %d is %q's: %w", ofport, name, ErrInUse)
		}
		for _, ip := range e.IPs {
			if slices.Contains(s.IPs, ip) {
				return Change{}, fmt.Errorf("%v is %q's: %w", ip, name, ErrInUse)
			}
		}
	}
	e.IPs = slices.Clone(e.IPs)
	s := &Station{Endpoint: e, Ofport: ofport, restricted: len(e.IPs) > 0}
	if o := t.attached[e.Name]; o != nil && o.same(s) {
		return Change{}, nil
	}
	t.goneLocked(t.attached[e.Name])
	t.attached[e.Name] = s
	delete(t.learned, e.MAC)
	delete(t.detached, e.MAC)
	return t.rebuildLocked(), nil
}

// goneLocked notes that s, if there is one, is attached no longer.
func (t *Table) goneLocked(s *Station) {
	if s == nil {
		return
	}
	now := time.Now()
	maps.DeleteFunc(t.detached, func(_ tap.MAC, until time.Time) bool { return !now.Before(until) })
	t.detached[s.MAC] = now.Add(DetachedAge)
}

// Detach removes the local endpoint of that name, if there is one.
func (t *Table) Detach(name string) Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attached[name] == nil {
		return Change{}
	}
	t.goneLocked(t.attached[name])
	delete(t.attached, name)
	return t.rebuildLocked()
}

// Learn notes that mac was seen as a source on the device. false: not learned,
// because somebody else speaks for it, it was just detached, the table is full, or too
// many came at once.
func (t *Table) Learn(mac tap.MAC, now time.Time) (*Station, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.view.Load()
	if s := v.macs[mac]; s != nil {
		return s, s.Local()
	}
	if now.Before(t.detached[mac]) || mac.IsMulticast() || mac.IsZero() || len(t.learned) >= MaxLearned || !t.learnTokenLocked(now) {
		return nil, false
	}
	s := &Station{Endpoint: Endpoint{MAC: mac}, Learned: true, seen: new(atomic.Int64)}
	s.seen.Store(now.UnixNano())
	t.learned[mac] = s
	macs := maps.Clone(v.macs)
	if macs == nil {
		macs = map[tap.MAC]*Station{}
	}
	macs[mac] = s
	t.view.Store(&View{macs: macs, ips: v.ips})
	return s, true
}

func (t *Table) learnTokenLocked(now time.Time) bool {
	if now.Sub(t.learnTime) >= time.Second {
		t.learnTime, t.learnLeft = now, LearnRate
	}
	t.learnLeft--
	return t.learnLeft >= 0
}

// Touch notes that a frame of s was seen. It is for the packet path.
func (s *Station) Touch(now time.Time) {
	if s.Learned && now.UnixNano()-s.seen.Load() > int64(time.Second) {
		s.seen.Store(now.UnixNano())
	}
}

// Age forgets learned stations that were silent for LearnedAge.
func (t *Table) Age(now time.Time) Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	oldest := now.Add(-LearnedAge).UnixNano()
	n := len(t.learned)
	maps.DeleteFunc(t.learned, func(_ tap.MAC, s *Station) bool { return s.seen.Load() <= oldest })
	if len(t.learned) == n {
		return Change{}
	}
	return t.rebuildLocked()
}

// Locals lists the endpoints to announce, in a stable order.
func (t *Table) Locals() []Endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []Endpoint
	for _, s := range t.attached {
		list = append(list, s.Endpoint)
	}
	for _, s := range t.learned {
		list = append(list, s.Endpoint)
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	return list
}

// Of lists the stations in force that peer speaks for, in a stable order.
func (t *Table) Of(peer overlay.PeerID) []Endpoint {
	var list []Endpoint
	for _, s := range t.view.Load().macs {
		if s.Peer == peer {
			list = append(list, s.Endpoint)
		}
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	return list
}

// Announcement is one step in what a peer announces: version Version, made of
// version Base (0 = of nothing) by removing and then adding.
type Announcement struct {
	Version, Base uint64
	Add           []Endpoint
	Remove        []tap.MAC
}

// Announce applies what a peer announced. An error means that the peer breaks the
// protocol; what it announced before is unchanged.
func (t *Table) Announce(peer overlay.PeerID, a Announcement) (Change, error) {
	for _, e := range a.Add {
		if err := e.Check(); err != nil {
			return Change{}, fmt.Errorf("endpoint %q: %w", e.Name, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.claimsLocked(peer)
	list := map[tap.MAC]Endpoint{}
	if a.Base != 0 {
		if a.Base != c.version {
			return Change{}, fmt.Errorf("%w: it is based on %d, we have %d", ErrGap, a.Base, c.version)
		}
		list = maps.Clone(c.list)
	}
	for _, m := range a.Remove {
		delete(list, m)
	}
	for _, e := range a.Add {
		list[e.MAC] = e
	}
	if len(list) > MaxAnnounced {
		return Change{}, ErrTooMany
	}
	c.list, c.version = list, a.Version
	return t.rebuildLocked(), nil
}

func (t *Table) claimsLocked(peer overlay.PeerID) *claims {
	c := t.peers[peer]
	if c == nil {
		t.arrivals++
		c = &claims{arrival: t.arrivals, list: map[tap.MAC]Endpoint{}}
		t.peers[peer] = c
	}
	return c
}

// SetLinked says whether there is a link to peer. What it announced stays when the
// link goes (a lost link is not a lost workload), but yields to linked peers.
func (t *Table) SetLinked(peer overlay.PeerID, linked bool) Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.claimsLocked(peer)
	if c.linked == linked {
		return Change{}
	}
	c.linked = linked
	return t.rebuildLocked()
}

// Forget drops all that peer announced.
func (t *Table) Forget(peer overlay.PeerID) Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[peer] == nil {
		return Change{}
	}
	delete(t.peers, peer)
	return t.rebuildLocked()
}

// rebuildLocked makes the view anew from all claims.
func (t *Table) rebuildLocked() Change {
	b := builder{table: t, old: t.view.Load(), refused: map[Conflict]struct{}{},
		next: &View{macs: map[tap.MAC]*Station{}, ips: map[netip.Addr]*Station{}}}
	for _, s := range t.attached {
		b.next.macs[s.MAC] = s
		for _, ip := range s.IPs {
			b.next.ips[ip] = s
		}
	}
	for _, s := range t.learned {
		b.next.macs[s.MAC] = s
	}
	order := slices.Collect(maps.Keys(t.peers))
	slices.SortFunc(order, func(p, q overlay.PeerID) int {
		x, y := t.peers[p], t.peers[q]
		if x.linked != y.linked {
			return map[bool]int{true: -1, false: 1}[x.linked]
		}
		return cmp.Compare(x.arrival, y.arrival)
	})
	for _, p := range order {
		b.addPeer(p, t.peers[p])
	}
	for c := range b.refused {
		if _, known := t.refused[c]; !known {
			b.change.Conflicts = append(b.change.Conflicts, c)
		}
	}
	for c := range t.refused {
		s := b.next.macs[c.MAC]
		if _, still := b.refused[c]; !still && !c.IP.IsValid() && c.Holder.IsZero() && s != nil && s.Local() {
			b.change.Freed = append(b.change.Freed, s)
		}
	}
	t.conflicts.Add(uint64(len(b.change.Conflicts)))
	t.refused = b.refused
	b.diff()
	t.view.Store(b.next)
	return b.change
}

// builder is one rebuild under way.
type builder struct {
	table     *Table
	old, next *View
	refused   map[Conflict]struct{}
	change    Change
}

func (b *builder) addPeer(p overlay.PeerID, c *claims) {
	for _, m := range slices.SortedFunc(maps.Keys(c.list), func(x, y tap.MAC) int { return slices.Compare(x[:], y[:]) }) {
		e := c.list[m]
		if h := b.holder(b.next.macs[m], b.old.macs[m], p, address{mac: m}); h != nil {
			b.refused[Conflict{MAC: m, Holder: h.Peer, Claimer: p}] = struct{}{}
			continue
		}
		s := &Station{Endpoint: e, Peer: p, restricted: len(e.IPs) > 0}
		s.IPs = make([]netip.Addr, 0, len(e.IPs))
		for _, ip := range e.IPs {
			if h := b.holder(b.next.ips[ip], b.old.ips[ip], p, address{ip: ip}); h != nil {
				b.refused[Conflict{MAC: m, IP: ip, Holder: h.Peer, Claimer: p}] = struct{}{}
				continue
			}
			s.IPs = append(s.IPs, ip)
		}
		if o := b.old.macs[m]; o != nil && o.same(s) {
			s = o
		}
		b.next.macs[m] = s
		for _, ip := range s.IPs {
			b.next.ips[ip] = s
		}
	}
}

// holder is who keeps p from having an address: whoever has it in the new view, or
// had it in the old one, is linked and still claims it; or who SetHolder said it is.
func (b *builder) holder(now, before *Station, p overlay.PeerID, a address) *Station {
	if now != nil {
		return now
	}
	if h, ok := b.table.held[a]; ok {
		if h == p {
			return nil
		}
		return &Station{Peer: h}
	}
	if before == nil || before.Local() || before.Peer == p {
		return nil
	}
	c := b.table.peers[before.Peer]
	if c == nil || !c.linked {
		return nil
	}
	if m := b.next.macs[before.MAC]; m != nil && m.Peer != before.Peer {
		return nil // it lost the MAC, and its IPs with it
	}
	e, ok := c.list[before.MAC]
	if !ok || a.ip.IsValid() && !slices.Contains(e.IPs, a.ip) {
		return nil
	}
	return before
}

func (b *builder) diff() {
	for m, s := range b.next.macs {
		if b.old.macs[m] != s {
			b.change.Up = append(b.change.Up, s)
		}
	}
	for m, s := range b.old.macs {
		if b.next.macs[m] != s {
			b.change.Down = append(b.change.Down, s)
		}
	}
}
