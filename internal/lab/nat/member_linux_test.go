package nat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/tap"
)

// device is the TAP of a node whose kernel is itself the workload.
const device = "vias0"

// member is a node of a network, whose TCP connection goes by it.
type member struct {
	network *vias.Network
	failed  atomic.Pointer[error]

	sent, received atomic.Int64 // of the connection, in bytes
	progress       atomic.Int64 // Unix nanoseconds of the latest byte received
	gap            atomic.Int64 // the longest between two of them since the last Talked
	stop, done     chan struct{}
}

// Progress is what a connection came to.
type Progress struct {
	Sent, Received int64
	Gap            time.Duration // the longest without anything since the last call
}

// Member is an RPC: it makes the node one of a network. The device is there.
func (n *node) Member(a Opening, id *overlay.PeerID) error {
	config, err := a.config()
	if err != nil {
		return err
	}
	config.Interfaces = func(name string) bool { return name != device }
	identity, err := overlay.NewIdentity()
	if err != nil {
		return err
	}
	m := &member{stop: make(chan struct{}), done: make(chan struct{})}
	m.network, err = vias.New(vias.Config{Name: "roaming", Identity: identity, Transport: icedtls.Open(config), Device: tap.Linux(device)})
	if err != nil {
		return err
	}
	n.member, *id = m, identity.ID()
	return nil
}

// Join is an RPC: the member runs, with that peer, and echoes TCP.
func (n *node) Join(peer overlay.PeerID, _ *Nothing) error {
	m := n.member
	if err := m.network.AddPeer(peer); err != nil {
		return err
	}
	go func() {
		err := m.network.Run(context.Background())
		m.failed.Store(&err)
	}()
	i, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.network.Attach(ctx, vias.Endpoint{Name: device, MAC: tap.MAC(i.HardwareAddr)}); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", ":7")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return nil
}

// PathOf is an RPC: the path of the member's link, if it has one.
func (n *node) PathOf(_ Nothing, out *Path) error {
	for _, p := range n.member.network.Peers() {
		*out = Path{p.Path.Kind == overlay.PathRelay, p.Path.Local, p.Path.Remote, p.Link.Paths}
	}
	return nil
}

const talkChunk = 4096

// Talk is an RPC: a connection to the peer's echo, 2 MB/s each way, until Talked(true).
func (n *node) Talk(to netip.AddrPort, _ *Nothing) error {
	c, err := net.DialTimeout("tcp", to.String(), 20*time.Second)
	if err != nil {
		return err
	}
	m := n.member
	m.progress.Store(time.Now().UnixNano())
	go m.write(c)
	go m.read(c)
	return nil
}

// chunk is what is sent at a place of the stream.
func chunk(at int64) []byte {
	b := make([]byte, talkChunk)
	for i := range b {
		b[i] = byte((at + int64(i)) % 251)
	}
	return b
}

func (m *member) fail(err error) { m.failed.CompareAndSwap(nil, &err) }

func (m *member) write(c net.Conn) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				m.fail(err)
			}
			return
		case <-tick.C:
		}
		n, err := c.Write(chunk(m.sent.Load()))
		m.sent.Add(int64(n))
		if err != nil {
			m.fail(fmt.Errorf("write: %w", err))
			return
		}
	}
}

func (m *member) read(c net.Conn) {
	defer close(m.done)
	defer c.Close()
	for b := make([]byte, talkChunk); ; {
		n, err := io.ReadFull(c, b)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			m.fail(fmt.Errorf("read: %w", err))
			return
		}
		now := time.Now().UnixNano()
		m.gap.Store(max(m.gap.Load(), now-m.progress.Swap(now)))
		if at := m.received.Add(int64(n)) - int64(n); !bytes.Equal(b, chunk(at)) {
			m.fail(fmt.Errorf("other bytes came back at %d", at))
			return
		}
	}
}

// Talked is an RPC: what the connection came to; end = it is closed in order first.
func (n *node) Talked(end bool, out *Progress) error {
	m := n.member
	if end {
		close(m.stop)
		select {
		case <-m.done:
		case <-time.After(20 * time.Second):
			return errors.New("the connection does not end")
		}
	}
	if err := m.failed.Load(); err != nil {
		return *err
	}
	*out = Progress{m.sent.Load(), m.received.Load(), time.Duration(m.gap.Swap(0))}
	return nil
}
