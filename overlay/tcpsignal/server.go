// Package tcpsignal is a small rendezvous over TCP: peers that have no Link yet
// find each other at a server that passes their messages on. It needs no server
// product and keeps nothing.
//
// Neither side trusts the other with more than delivery. A client proves to hold
// the key of the PeerID that it receives for, so that nobody takes over another's
// mailbox; beyond that, the server may lose, read, repeat or forge messages, and
// [overlay.Signaler] says that users must cope. Connections are not encrypted.
package tcpsignal

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/viasnet/vias/overlay"
)

// ServerConfig bounds a server. The zero value is fit for some hundred nodes.
type ServerConfig struct {
	// MaxClients at once; further connections are closed at once. Default 1024.
	MaxClients int
	// Queue is how many messages wait for one client; more are lost. Default 64.
	Queue int
	// HandshakeTimeout bounds a client's proof of its ID. Default 5 s.
	HandshakeTimeout time.Duration
	// IdleTimeout closes a connection that nothing came from; clients send
	// something every 15 s. Default 1 min.
	IdleTimeout time.Duration
	// Admit says who may register. It must not block. Nil = everybody.
	Admit func(overlay.PeerID) bool
	// Logger; nil = silent.
	Logger *slog.Logger
}

const (
	writeTimeout = 10 * time.Second
	// How long accepting pauses when the system has no room for a connection.
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

func (c *ServerConfig) complete() {
	if c.MaxClients <= 0 {
		c.MaxClients = 1024
	}
	if c.Queue <= 0 {
		c.Queue = 64
	}
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = 5 * time.Second
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = time.Minute
	}
	if c.Admit == nil {
		c.Admit = func(overlay.PeerID) bool { return true }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

type server struct {
	*codec
	config ServerConfig
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]struct{} // registered or not yet
	clients map[overlay.PeerID]*client
}

// client is a registered connection.
type client struct {
	id    overlay.PeerID
	conn  net.Conn
	queue chan *frame
	done  chan struct{} // closed once, by whoever unregisters it
}

// Serve passes messages on until ctx ends; then it closes ln and every connection
// and returns nil. It returns an error when ln fails for good; while the system is
// short of file descriptors or memory it waits.
func Serve(ctx context.Context, ln net.Listener, config ServerConfig) error {
	config.complete()
	c, err := newCodec()
	if err != nil {
		return err
	}
	s := &server{
		codec: c, config: config,
		conns:   map[net.Conn]struct{}{},
		clients: map[overlay.PeerID]*client{},
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	err = s.accept(ctx, ln)
	_ = ln.Close()
	s.closeAll()
	s.wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *server) accept(ctx context.Context, ln net.Listener) error {
	var wait time.Duration
	for {
		conn, err := ln.Accept()
		if err != nil {
			if !passing(err) || ctx.Err() != nil {
				return fmt.Errorf("tcpsignal: accept: %w", err)
			}
			if wait == 0 {
				s.config.Logger.Warn("no connection can be accepted for now", "err", err)
			}
			wait = min(max(2*wait, firstPause), lastPause)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		wait = 0
		if !s.add(conn) {
			s.config.Logger.Warn("client turned away: too many", "addr", conn.RemoteAddr())
			_ = conn.Close()
		}
	}
}

func (s *server) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.config.MaxClients {
		return false
	}
	s.conns[conn] = struct{}{}
	s.wg.Go(func() { s.serve(conn) })
	return true
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close()
	}
}

// serve is a connection's goroutine.
func (s *server) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	}()
	r := bufio.NewReader(conn)
	id, err := s.handshake(conn, r)
	if err != nil {
		s.config.Logger.Info("client not registered", "addr", conn.RemoteAddr(), "err", err)
		return
	}
	c := &client{id: id, conn: conn, queue: make(chan *frame, s.config.Queue), done: make(chan struct{})}
	c.put(&frame{Kind: kindWelcome}) // first of all: nothing is forwarded before register
	s.register(c)
	defer s.unregister(c)
	s.wg.Go(func() { s.write(c) })
	s.config.Logger.Debug("client registered", "peer", id.Short(), "addr", conn.RemoteAddr())
	err = s.read(c, r)
	s.config.Logger.Debug("client gone", "peer", id.Short(), "err", err)
}

func (s *server) handshake(conn net.Conn, r *bufio.Reader) (id overlay.PeerID, err error) {
	if err := conn.SetDeadline(time.Now().Add(s.config.HandshakeTimeout)); err != nil {
		return id, err
	}
	nonce := make([]byte, nonceLength)
	_, _ = rand.Read(nonce) // never fails
	if err := s.codec.write(conn, &frame{Kind: kindChallenge, Data: nonce}); err != nil {
		return id, err
	}
	f, err := s.readKind(r, kindHello)
	if err != nil {
		return id, err
	}
	if id, err = f.verify(nonce); err != nil {
		return id, err
	}
	if !s.config.Admit(id) {
		return id, errors.New("not admitted")
	}
	return id, conn.SetDeadline(time.Time{})
}

// register makes c the one that messages for its ID go to: the newest wins, since
// an older one is most often the same node before it lost its connection.
func (s *server) register(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.clients[c.id]; old != nil {
		old.put(&frame{Kind: kindReplaced})
		close(old.done)
	}
	s.clients[c.id] = c
}

func (s *server) unregister(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[c.id] == c {
		delete(s.clients, c.id)
		close(c.done)
	}
}

func (s *server) read(c *client, r *bufio.Reader) error {
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(s.config.IdleTimeout)); err != nil {
			return err
		}
		f, err := s.codec.read(r)
		if err != nil {
			return err
		}
		switch f.Kind {
		case kindMessage:
			s.forward(c.id, f)
		case kindPing:
			c.put(&frame{Kind: kindPong})
		case kindPong:
		default:
			return errMalformed
		}
	}
}

// forward passes a message on. There may be nobody to take it; the sender is not
// told, since that would tell strangers who is there.
func (s *server) forward(from overlay.PeerID, f *frame) {
	s.mu.Lock()
	to := s.clients[overlay.PeerID(f.Peer)]
	s.mu.Unlock()
	if to != nil {
		to.put(&frame{Kind: kindMessage, Peer: from[:], Data: f.Data})
	}
}

// put queues f, or loses it when the client does not read.
func (c *client) put(f *frame) {
	select {
	case c.queue <- f:
	default:
	}
}

// write is a client's second goroutine. At the end it sends what is queued, so
// that a replaced client is told, and closes the connection, which ends serve.
func (s *server) write(c *client) {
	defer c.conn.Close()
	for {
		select {
		case f := <-c.queue:
			if s.send(c, f) != nil {
				return
			}
			continue
		default:
		}
		select {
		case f := <-c.queue:
			if s.send(c, f) != nil {
				return
			}
		case <-c.done:
			for len(c.queue) > 0 && s.send(c, <-c.queue) == nil {
			}
			return
		}
	}
}

func (s *server) send(c *client, f *frame) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return s.codec.write(c.conn, f)
}
