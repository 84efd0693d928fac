package vias

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Times of what a node publishes.
const (
	// entryLife is how long the directory shows what is not renewed, every third of it.
	entryLife      = 90 * time.Second
	publishTimeout = 2 * time.Second
	republishAfter = time.Second     // at the soonest, if the directory does not have it
	publishRetry   = 2 * time.Second // at most
	withdrawTime   = time.Second     // for all, when the Network ends
)

// publisher keeps our endpoints in the directory, and sees who else claims their addresses. All but
// wake and what mu guards belongs to its goroutine.
type publisher struct {
	wake chan struct{}

	list  map[tap.MAC]*published
	retry backoff

	mu        sync.Mutex // guards what follows
	recheck   map[tap.MAC]bool
	told      bool // the directory told something, so it is there
	conflicts map[tap.MAC][]Conflict
	count     int // how many are published
}

// published is an endpoint in the directory, or one that is to be or was.
type published struct {
	endpoint l2.Endpoint
	sequence uint64
	gone     bool      // it is to be withdrawn
	fresh    bool      // it is not as it was published, or was not
	there    bool      // it was published
	at, due  time.Time // when it was published last, and is next
	stops    []func()  // of watches of its addresses
}

func (p *publisher) init() {
	p.wake = make(chan struct{}, 1)
	p.list, p.recheck, p.conflicts = map[tap.MAC]*published{}, map[tap.MAC]bool{}, map[tap.MAC][]Conflict{}
}

// poke has the publisher look at what there is. It does not block.
func (p *publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// changed may be called by the directory at any time: the claims to an address of ours are
// others.
func (p *publisher) changed(mac tap.MAC) {
	p.mu.Lock()
	p.recheck[mac], p.told = true, true
	p.mu.Unlock()
	p.poke()
}

func (p *publisher) takeTold() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := p.told
	p.told = false
	return told
}

// recheckSoon has the claims to our endpoint's addresses compared.
func (p *publisher) recheckSoon(mac tap.MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recheck[mac] = true
}

// publish works until ctx ends.
func (n *Network) publish(ctx context.Context, d overlay.Directory) error {
	p := &n.publisher
	defer n.unpublish(d)
	t := time.NewTimer(1) // at once; see timeTo
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-t.C:
		}
		now := time.Now()
		p.update(n.shared.Stations.Locals(), now)
		if now.Before(p.retry.due) && !p.takeTold() && n.health.failing() {
			t.Reset(timeTo(p.retry.due))
			continue
		}
		err := n.publishDue(ctx, d)
		if err == nil {
			err = n.recheckOwn(ctx, d)
		}
		if err != nil {
			p.retry.fail(time.Now())
			p.retry.due = earlier(p.retry.due, time.Now().Add(publishRetry))
			t.Reset(timeTo(p.retry.due))
			continue
		}
		p.retry = backoff{}
		t.Reset(timeTo(p.next(now)))
	}
}

// update compares what there is with what was published.
func (p *publisher) update(locals []l2.Endpoint, now time.Time) {
	for _, o := range p.list {
		o.gone = true
	}
	for _, e := range locals {
		o := p.list[e.MAC]
		if o == nil {
			o = &published{}
			p.list[e.MAC] = o
		}
		o.gone = false
		if !o.endpoint.Equal(e) {
			o.endpoint, o.due, o.fresh = e, now, true
		}
	}
}

// next is when something is due.
func (p *publisher) next(now time.Time) time.Time {
	at := now.Add(entryLife / 3)
	for _, o := range p.list {
		at = earlier(at, o.due)
	}
	return at
}

// publishDue withdraws and publishes what is due. The first error ends it.
func (n *Network) publishDue(ctx context.Context, d overlay.Directory) error {
	p := &n.publisher
	for mac, o := range p.list {
		var err error
		switch now := time.Now(); {
		case o.gone:
			err = n.withdrawOne(ctx, d, mac)
		case !now.Before(o.due):
			err = n.publishOne(ctx, d, o, now)
		default:
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		n.directoryAnswered(err, time.Now())
		if err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count = len(p.list)
	return nil
}

func (n *Network) withdrawOne(ctx context.Context, d overlay.Directory, mac tap.MAC) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := d.Withdraw(ctx, mac); err != nil {
		return fmt.Errorf("withdraw %v: %w", mac, err)
	}
	p := &n.publisher
	p.list[mac].unwatch()
	delete(p.list, mac)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conflicts, mac)
	delete(p.recheck, mac)
	return nil
}

func (n *Network) publishOne(ctx context.Context, d overlay.Directory, o *published, now time.Time) error {
	e := o.endpoint
	sequence := max(o.sequence+1, uint64(now.UnixMicro()))
	r, err := overlay.SignEntry(n.config.Identity, n.config.Name, overlay.Entry{
		Sequence: sequence, Issued: now, Life: entryLife, MAC: e.MAC, IPs: e.IPs, Name: e.Name, Tag: e.Tag,
	})
	if err != nil {
		o.due = now.Add(entryLife) // it can never be
		n.log.Warn("an endpoint cannot be published", "mac", e.MAC, "err", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := d.Publish(ctx, r); err != nil {
		return fmt.Errorf("publish %v: %w", e.MAC, err)
	}
	fresh := o.fresh
	o.sequence, o.there, o.fresh = sequence, true, false
	o.at, o.due = now, now.Add(entryLife/3)
	if fresh {
		o.unwatch()
		for _, t := range targetsOf(e) {
			o.stops = append(o.stops, d.Watch(t.key(), func() { n.publisher.changed(e.MAC) }))
		}
		n.publisher.recheckSoon(e.MAC)
	}
	return nil
}

// lost has an entry published again that the directory does not have, or does not show yet.
func (o *published) lost(now time.Time) {
	o.due = earlier(o.due, o.at.Add(republishAfter))
	if o.due.Before(now) {
		o.due = now
	}
}

func (o *published) unwatch() {
	for _, stop := range o.stops {
		stop()
	}
	o.stops = nil
}

// targetsOf are an endpoint's addresses.
func targetsOf(e l2.Endpoint) []target {
	list := []target{{mac: e.MAC}}
	for _, ip := range e.IPs {
		list = append(list, target{ip: ip})
	}
	return list
}

// recheckOwn sees who else claims addresses of ours.
func (n *Network) recheckOwn(ctx context.Context, d overlay.Directory) error {
	p := &n.publisher
	for {
		p.mu.Lock()
		var mac tap.MAC
		found := false
		for mac = range p.recheck {
			found = true
			break
		}
		delete(p.recheck, mac)
		p.mu.Unlock()
		if !found {
			return nil
		}
		o := p.list[mac]
		if o == nil || o.gone {
			continue
		}
		if err := n.recheckOne(ctx, d, o); err != nil {
			p.recheckSoon(mac)
			return err
		}
	}
}

func (n *Network) recheckOne(ctx context.Context, d overlay.Directory, o *published) error {
	var list []Conflict
	e := o.endpoint
	for _, t := range targetsOf(e) {
		one, cancel := context.WithTimeout(ctx, lookupTimeout)
		claims, err := d.Lookup(one, t.key())
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		n.directoryAnswered(err, time.Now())
		if err != nil {
			return fmt.Errorf("look up %v: %w", e.MAC, err)
		}
		entries := n.finder.verify(t, claims, time.Now())
		list = append(list, n.conflictsOver(t, e.MAC, entries)...)
		if !slices.ContainsFunc(entries, func(c overlay.Entry) bool { return c.Peer == n.self }) {
			o.lost(time.Now())
		}
	}
	p := &n.publisher
	p.mu.Lock()
	before := p.conflicts[e.MAC]
	if p.conflicts[e.MAC] = list; len(list) == 0 {
		delete(p.conflicts, e.MAC)
	}
	p.mu.Unlock()
	for _, c := range list {
		if !slices.Contains(before, c) {
			n.hub.emit(c)
			n.log.Warn("two nodes have an endpoint of the same address", "claimer", c.Claimer.Short(), "holder", c.Holder.Short(), "mac", c.MAC, "ip", c.IP)
		}
	}
	return nil
}

// conflictsOver are those over an address of our endpoint's: all with us if we are first, ours with the
// first if we are not.
func (n *Network) conflictsOver(t target, own tap.MAC, claims []overlay.Entry) (list []Conflict) {
	for i, c := range claims {
		switch {
		case c.Peer == n.self:
		case claims[0].Peer == n.self:
			list = append(list, Conflict{Claimer: c.Peer, MAC: c.MAC, IP: t.ip})
		case i == 0:
			list = append(list, Conflict{Claimer: n.self, Holder: c.Peer, MAC: own, IP: t.ip})
		}
	}
	return list
}

// unpublish withdraws everything, for what it is worth: entries expire by themselves.
func (n *Network) unpublish(d overlay.Directory) {
	ctx, cancel := context.WithTimeout(context.Background(), withdrawTime)
	defer cancel()
	away := false
	for mac, o := range n.publisher.list {
		o.unwatch()
		away = away || o.there && d.Withdraw(ctx, mac) != nil
	}
}
