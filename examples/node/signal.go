package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/overlay/sealed"
	"github.com/viasnet/vias/overlay/tcpsignal"
)

// signal is how the node signals: whatever carries its messages, they are sealed.
func (n *node) signal() (overlay.SignalOpener, error) {
	s := &n.cfg.Signal
	if s.TCP.IsValid() {
		return sealed.Open(tcpsignal.Dial(s.TCP.String()), sealed.Config{Logger: n.log}), nil
	}
	c, err := n.natsConfig()
	if err != nil {
		return nil, err
	}
	return sealed.Open(natssignal.Open(c), sealed.Config{Logger: n.log}), nil
}

// directory is where endpoints are published and found: on NATS. Without it a node is linked to its
// peers, and hears of their endpoints from them.
func (n *node) directory() (overlay.DirectoryOpener, error) {
	if n.cfg.Signal.TCP.IsValid() || n.cfg.NoDirectory {
		return nil, nil
	}
	c, err := n.natsConfig()
	if err != nil {
		return nil, err
	}
	return natssignal.OpenDirectory(c), nil
}

// natsConfig is how the node reaches NATS: its own server, or others.
func (n *node) natsConfig() (c natssignal.Config, err error) {
	s := &n.cfg.Signal
	c = natssignal.Config{Network: n.cfg.Network, Logger: n.log}
	if n.member != nil {
		c.Credential = n.member.Certificates
	}
	if s.NATS == nil {
		c.InProcess = n // its own server, once it is there
		return c, nil
	}
	c.Servers, c.Credentials, c.NKey = s.NATS.URLs, s.NATS.Credentials, s.NATS.NKey
	c.TLS, err = tlsConfig(s.TLS)
	return c, err
}

// InProcessConn is a connection to the node's own server. It implements what
// natssignal.Config wants, which tries again after an error.
func (n *node) InProcessConn() (net.Conn, error) {
	s := n.server.Load()
	if s == nil {
		return nil, errors.New("the node's own server is not there yet")
	}
	return s.InProcessConn()
}

// tlsConfig reads the files that t names; nil stays nil.
func tlsConfig(t *nodecfg.TLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("signal.tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("signal.tls.ca: %s holds no certificate", t.CA)
		}
	}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("signal.tls.cert: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// serverConfig is the node's own server, as the configuration has it.
func (n *node) serverConfig() (embedded.Config, error) {
	s := &n.cfg.Signal
	c := embedded.Config{Listen: s.Serve, Store: s.Store, Logger: n.log}
	if !s.Anybody {
		c.Admit = n.admitClient
	}
	var err error
	if c.TLS, err = tlsConfig(s.TLS); err != nil || s.Cluster == nil {
		return c, err
	}
	secret, err := os.ReadFile(s.Cluster.Secret)
	if err != nil {
		return c, fmt.Errorf("signal.cluster.secret: %w", err)
	}
	if secret = bytes.TrimSpace(secret); len(secret) == 0 {
		return c, fmt.Errorf("signal.cluster.secret: %s is empty", s.Cluster.Secret)
	}
	c.Cluster = &embedded.Cluster{Listen: s.Cluster.Listen, Routes: s.Cluster.Routes, Secret: string(secret)}
	return c, nil
}

// admitClient is the network's rule at the door of our own server: who may link to us may use it.
func (n *node) admitClient(peer overlay.PeerID, credential []byte) error {
	switch {
	case peer == n.id:
		return nil
	case n.member != nil:
		return n.member.Admit(peer, credential)
	case slices.ContainsFunc(n.cfg.Peers, func(p nodecfg.Peer) bool { return p.ID == peer }):
		return nil
	}
	return overlay.ErrNotAdmitted
}

// rendezvous serves the other nodes, as soon as its address is there and free.
func (n *node) rendezvous(ctx context.Context) error {
	addr := n.cfg.Signal.Serve.String()
	m := missing{node: n, what: "the rendezvous' address " + addr}
	for {
		err := n.serveSignal(ctx, addr, &m)
		if ctx.Err() != nil {
			return nil
		}
		if !m.pause(ctx, err) {
			return nil
		}
	}
}

// serveSignal serves until ctx ends or it does not work.
func (n *node) serveSignal(ctx context.Context, addr string, m *missing) error {
	if n.cfg.Signal.Embedded() {
		return n.serveNATS(ctx, addr, m)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	m.found()
	n.log.Info("serving the rendezvous", "addr", addr)
	return tcpsignal.Serve(ctx, ln, tcpsignal.ServerConfig{Logger: n.log})
}

func (n *node) serveNATS(ctx context.Context, addr string, m *missing) error {
	config, err := n.serverConfig()
	if err != nil {
		return err
	}
	s, err := embedded.Start(ctx, config)
	if err != nil {
		return err
	}
	defer s.Close()
	m.found()
	n.log.Info("serving NATS", "addr", addr, "cluster", config.Cluster != nil)
	n.server.Store(s)
	<-ctx.Done()
	return nil
}
