package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/bypasstest"
	"github.com/viasnet/vias/tap"
)

// guest is a workload with as much TCP (RFC 9293) as the story needs: one
// connection, one segment at a time, repeated until it is answered. It knows
// nothing of overlay and bypass, as real workloads do not.
type guest struct {
	mac  tap.MAC
	addr netip.AddrPort
	flow bypass.Flow // as this guest sends it
	peer *guest
	echo bool // the server: it says again what it hears
	send func(frame []byte)

	heard chan bypasstest.Packet // the client's: what came for it

	mu       sync.Mutex // guards what follows
	seq, ack uint32
	segments int
	repeated int
}

// meet makes g, the client, and server the two ends of a connection.
func (g *guest) meet(server *guest) {
	g.peer, server.peer = server, g
	g.flow = bypass.Flow{Proto: bypass.TCP, Src: g.addr, Dst: server.addr}
	server.flow, server.echo = g.flow.Reverse(), true
}

// repeatAfter is the retransmission time-out.
const repeatAfter = 50 * time.Millisecond

// marker is a word that stands nowhere else: 32 random bytes in hex.
func marker() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// connect opens the client's connection.
func (g *guest) connect(ctx context.Context) error {
	err := g.request(ctx, bypasstest.FlagSYN, "", func(p bypasstest.Packet) bool {
		return p.Flags == bypasstest.FlagSYN|bypasstest.FlagACK
	})
	if err == nil {
		g.transmit(bypasstest.FlagACK, "")
	}
	return err
}

// say sends a word from the client and waits until it comes back.
func (g *guest) say(ctx context.Context, word string) error {
	return g.request(ctx, bypasstest.FlagPSH|bypasstest.FlagACK, word, func(p bypasstest.Packet) bool {
		return string(p.Payload) == word
	})
}

// request sends a segment, again and again, until there is an answer.
func (g *guest) request(ctx context.Context, flags uint8, payload string, answers func(bypasstest.Packet) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("the connection is dead: a segment was never answered"))
	defer cancel()
	again := time.NewTicker(repeatAfter)
	defer again.Stop()
	g.transmit(flags, payload)
	for {
		select {
		case p := <-g.heard:
			if answers(p) {
				g.mu.Lock()
				g.seq, g.ack = p.Ack, p.Seq+uint32(len(p.Payload))
				g.mu.Unlock()
				return nil
			}
		case <-again.C:
			g.mu.Lock()
			g.repeated++
			g.mu.Unlock()
			g.transmit(flags, payload)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *guest) transmit(flags uint8, payload string) {
	g.mu.Lock()
	p := bypasstest.Packet{
		SrcMAC: g.mac, DstMAC: g.peer.mac, Flow: g.flow,
		Seq: g.seq, Ack: g.ack, Flags: flags, Payload: []byte(payload),
	}
	g.segments++
	g.mu.Unlock()
	g.send(p.Frame())
}

// receive is the switch handing over a frame. What is not exactly what the other
// guest sent is dropped, and the exchange then fails.
func (g *guest) receive(frame []byte) {
	p, ok := bypasstest.Parse(frame)
	if !ok || bypasstest.CheckSums(frame) != nil || p.SrcMAC != g.peer.mac || p.DstMAC != g.mac || p.Flow != g.flow.Reverse() {
		return
	}
	if !g.echo {
		select {
		case g.heard <- p:
		default:
		}
		return
	}
	next := p.Seq + uint32(len(p.Payload))
	if p.Flags&bypasstest.FlagSYN != 0 {
		next++ // RFC 9293, section 3.4: a SYN counts as one octet
	}
	g.mu.Lock()
	g.seq, g.ack = p.Ack, next
	g.mu.Unlock()
	switch {
	case p.Flags&bypasstest.FlagSYN != 0:
		g.transmit(bypasstest.FlagSYN|bypasstest.FlagACK, "")
	case len(p.Payload) > 0:
		g.transmit(bypasstest.FlagPSH|bypasstest.FlagACK, string(p.Payload))
	}
}

func (g *guest) counts() (segments, repeated int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.segments, g.repeated
}
