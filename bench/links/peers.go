package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/tcpsignal"
)

// servePeers runs count peers and their rendezvous, until the process is ended.
func servePeers(ctx context.Context, o options, out io.Writer) error {
	g, ctx := errgroup.WithContext(ctx)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g.Go(func() error { return tcpsignal.Serve(ctx, ln, tcpsignal.ServerConfig{MaxClients: o.links + 16}) })
	p := there{Rendezvous: ln.Addr().String()}
	for range o.links {
		id, err := overlay.NewIdentity()
		if err != nil {
			return err
		}
		p.Peers = append(p.Peers, id.ID())
		if o.whole {
			if err := whole(ctx, g, id, p.Rendezvous, o.of); err != nil {
				return err
			}
			continue
		}
		t, err := open(ctx, id, p.Rendezvous)
		if err != nil {
			return err
		}
		g.Go(func() error { return accept(ctx, t) })
	}
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s\n", line); err != nil {
		return err
	}
	return g.Wait()
}

// whole is a peer that is a Network.
func whole(ctx context.Context, g *errgroup.Group, id *overlay.Identity, rendezvous, of string) error {
	n, err := newNetwork(id, rendezvous)
	if err != nil {
		return err
	}
	peer, err := overlay.ParsePeerID(of)
	if err == nil {
		err = n.AddPeer(peer)
	}
	g.Go(func() error { return n.Run(ctx) })
	return err
}

// accept takes links and what comes over them.
func accept(ctx context.Context, t overlay.Transport) error {
	for {
		l, err := t.Accept(ctx)
		if err != nil {
			return err
		}
		go func() { _ = drain(l) }()
	}
}
