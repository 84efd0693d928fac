package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

const (
	networkName = "links"
	linkLimit   = 5 * time.Minute // for all
)

// silent is a device in which nothing happens.
type silent struct {
	done chan struct{}
	once sync.Once
}

// ReadBatch waits until it is closed.
func (s *silent) ReadBatch(*tap.Batch) error {
	<-s.done
	return tap.ErrClosed
}

// WriteBatch takes everything.
func (*silent) WriteBatch(*tap.Batch) error { return nil }

// Caps are none.
func (*silent) Caps() tap.Caps { return tap.Caps{} }

// MTU is a network's usual one.
func (*silent) MTU() int { return 1400 }

// Close ends ReadBatch.
func (s *silent) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func newNetwork(id *overlay.Identity, rendezvous string) (*vias.Network, error) {
	return vias.New(vias.Config{Name: networkName, Identity: id, Transport: opener(rendezvous),
		Device: func(context.Context) (tap.Device, error) { return &silent{done: make(chan struct{})}, nil }})
}

// network is a node that is a whole Network.
func (n *node) network(ctx context.Context, id *overlay.Identity, rendezvous string) (dialer, func() error, error) {
	network, err := newNetwork(id, rendezvous)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- network.Run(ctx) }()
	shut := func() error {
		cancel()
		return <-ended
	}
	if err := network.Ready(ctx); err != nil {
		return nil, nil, errors.Join(err, shut())
	}
	events := network.Events(ctx)
	go func() {
		for e := range events {
			if down, ok := e.(vias.PeerDown); ok {
				n.note(down.Err)
			}
		}
	}()
	dial := func(ctx context.Context, peers []overlay.PeerID, _ int) error {
		for _, p := range peers {
			if err := network.AddPeer(p); err != nil {
				return err
			}
		}
		return allLinked(ctx, network, len(peers))
	}
	return dial, shut, nil
}

// allLinked waits for so many links.
func allLinked(ctx context.Context, network *vias.Network, count int) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(linkLimit); ; {
		linked := 0
		for _, p := range network.Peers() {
			if p.State == vias.PeerLinked {
				linked++
			}
		}
		if linked == count {
			return nil
		}
		select {
		case <-tick.C:
		case <-limit:
			return fmt.Errorf("%d of %d peers are linked after %v", linked, count, linkLimit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
