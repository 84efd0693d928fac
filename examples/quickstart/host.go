package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/overlay/tcpsignal"
	"github.com/viasnet/vias/tap"
)

// story is the two hosts and what is between them.
type story struct {
	out        io.Writer
	wire       *watchedWire
	alice, bob *host
	stop       context.CancelFunc
	rendezvous chan error
}

// host is one machine: a Network, a switch, and a guest at one of its ports.
type host struct {
	name     string
	underlay netip.Addr // on the provider's network
	uplink   tap.MAC
	sw       *bypasstest.Switch
	network  *vias.Network
	stack    atomic.Int64 // TCP and UDP that came to the host's own; what asks for its MAC may
	guest    *guest
	ended    chan error // what Run returned
}

const (
	guestOfport = 3
	guestMTU    = 1400
)

func setUp(ctx context.Context, out io.Writer) (*story, error) {
	// A rendezvous lets the two find each other. It is not trusted with more.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	s := &story{out: out, wire: watchWire(), stop: stop, rendezvous: make(chan error, 1)}
	go func() { s.rendezvous <- tcpsignal.Serve(ctx, ln, tcpsignal.ServerConfig{}) }()

	s.alice, s.bob = s.newHost("alice", 1), s.newHost("bob", 2)
	s.alice.guest.meet(s.bob.guest)
	err = errors.Join(s.alice.embed(s.bob, ln.Addr().String()), s.bob.embed(s.alice, ln.Addr().String()))
	if err == nil {
		err = errors.Join(s.alice.network.AddPeer(s.bob.network.ID()), s.bob.network.AddPeer(s.alice.network.ID()))
	}
	if err != nil {
		stop()
		return nil, errors.Join(err, <-s.rendezvous)
	}
	for _, h := range []*host{s.alice, s.bob} {
		go func() { h.ended <- h.network.Run(ctx) }()
	}
	return s, nil
}

// takeDown ends both Networks; their switches must be as they were before.
func (s *story) takeDown() error {
	s.stop()
	err := errors.Join(<-s.alice.ended, <-s.bob.ended, <-s.rendezvous)
	for _, h := range []*host{s.alice, s.bob} {
		if n := len(h.sw.Rules()) + len(h.sw.Leases()); n > 0 {
			err = errors.Join(err, fmt.Errorf("%s left %d rules and leases in the switch", h.name, n))
		}
		if n := h.stack.Load(); n > 0 {
			err = errors.Join(err, fmt.Errorf("%s's own stack saw %d bypassed frames", h.name, n))
		}
	}
	if err == nil {
		s.say("end", "both are closed, nothing is left in the switches")
	}
	return err
}

func (s *story) newHost(name string, nr byte) *host {
	h := &host{
		name:     name,
		underlay: netip.AddrFrom4([4]byte{10, 0, 0, nr}),
		uplink:   tap.MAC{2, 0x10, 0, 0, 0, nr},
		guest: &guest{
			mac:   tap.MAC{2, 0x77, 0, 0, 0, nr},
			addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 7, nr}), 8000+uint16(nr)),
			heard: make(chan bypasstest.Packet, 16),
		},
		ended: make(chan error, 1),
	}
	h.sw = s.wire.NewSwitch(bypasstest.SwitchConfig{UplinkMAC: h.uplink, Addrs: []netip.Addr{h.underlay}})
	h.sw.AddPort(guestOfport, h.guest.mac, h.guest.receive)
	h.sw.Host(func(frame []byte) {
		if _, ok := bypasstest.Parse(frame); ok {
			h.stack.Add(1)
		}
	})
	h.guest.send = func(frame []byte) { h.sw.Send(guestOfport, frame) }
	return h
}

// embed is what a program that uses vias does: blueprint, endpoint, run.
func (h *host) embed(peer *host, rendezvous string) error {
	identity, err := overlay.NewIdentity()
	if err != nil {
		return err
	}
	// What the host's kernel knows of the provider's network: one peer, on-link.
	kernel := bypasstest.NewUnderlay(netip.PrefixFrom(h.underlay, 24))
	kernel.SetRoute(peer.underlay, bypass.Route{
		Local: h.underlay, Src: h.uplink, Via: peer.underlay, NextHop: peer.uplink, OnLink: true, MTU: 1500,
	})
	side, err := bypass.NewHost(bypass.HostConfig{
		Datapath: h.sw.Open,
		Underlay: kernel,
		Trust:    bypass.Trust{MaxRTT: 50 * time.Millisecond}, // all of it shares one machine's cores
	})
	if err != nil {
		return err
	}
	h.network, err = vias.New(vias.Config{
		Name:     "quickstart",
		Identity: identity,
		Transport: icedtls.Open(icedtls.Config{
			Signal:          tcpsignal.Dial(rendezvous),
			Listen:          netip.MustParseAddrPort("127.0.0.1:0"),
			IncludeLoopback: true,
		}),
		Device: func(context.Context) (tap.Device, error) { return tap.Simple(newCable(h.sw), guestMTU), nil },
		Bypass: side,
	})
	if err != nil {
		return err
	}
	return h.network.Attach(context.Background(), vias.Endpoint{
		Name: h.name, Ofport: guestOfport, MAC: h.guest.mac, IPs: []netip.Addr{h.guest.addr.Addr()},
	})
}

// cable joins a switch's tap to a Network's device: one frame a call, as tap.Simple
// wants it. On Linux tap.Linux takes its place.
type cable struct {
	sw     *bypasstest.Switch
	frames chan []byte
	closed chan struct{}
	once   sync.Once
}

func newCable(sw *bypasstest.Switch) *cable {
	c := &cable{sw: sw, frames: make(chan []byte, 64), closed: make(chan struct{})}
	sw.Tap(func(frame []byte) {
		select {
		case c.frames <- frame:
		default: // a full queue drops, as a wire would
		}
	})
	return c
}

func (c *cable) Read(p []byte) (int, error) {
	select {
	case f := <-c.frames:
		return copy(p, f), nil
	case <-c.closed:
		return 0, io.ErrClosedPipe
	}
}

func (c *cable) Write(p []byte) (int, error) {
	c.sw.FromTap(p)
	return len(p), nil
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// watchedWire is the provider's network, with somebody who looks for the guests'
// words on it.
type watchedWire struct {
	*bypasstest.Wire

	mu    sync.Mutex // guards what follows
	words map[string]bool
	found []bypasstest.Packet
}

func watchWire() *watchedWire {
	w := &watchedWire{Wire: bypasstest.NewWire()}
	w.Tap(func(frame []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		p, _ := bypasstest.Parse(frame)
		if w.words[string(p.Payload)] {
			w.found = append(w.found, p)
		}
	})
	return w
}

func (w *watchedWire) start(words []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.words, w.found = map[string]bool{}, nil
	for _, word := range words {
		w.words[word] = true
	}
}

func (w *watchedWire) stop() []bypasstest.Packet {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.words = nil
	return w.found
}
