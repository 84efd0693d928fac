package icedtls

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v4"
)

const (
	// mappedFresh is how long a mapped address is offered again without asking.
	mappedFresh = 20 * time.Second
	// mappedWait is how long gathering waits for STUN servers at most.
	mappedWait     = 1500 * time.Millisecond
	mappedInterval = 300 * time.Millisecond
	mappedGrace    = 300 * time.Millisecond
)

// mappedAddresses asks STUN servers (RFC 8489) from the socket itself, since the
// mapping of another socket would be of no use.
type mappedAddresses struct {
	socket  *socket
	servers []string

	mu      sync.Mutex
	pending map[[stun.TransactionIDSize]byte]query
	known   map[string]mapping // by server
}

type query struct {
	server netip.AddrPort
	answer chan netip.AddrPort // room for one
}

type mapping struct {
	addr netip.AddrPort
	at   time.Time
}

func newMappedAddresses(s *socket, servers []string) *mappedAddresses {
	return &mappedAddresses{
		socket: s, servers: servers,
		pending: map[[stun.TransactionIDSize]byte]query{},
		known:   map[string]mapping{},
	}
}

// forget makes get ask again: our addresses may be others.
func (m *mappedAddresses) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.known)
}

// get returns what the servers say within mappedWait, or mappedGrace after the first of them,
// each address once.
func (m *mappedAddresses) get(ctx context.Context) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, mappedWait)
	defer cancel()
	var wg sync.WaitGroup
	found := make(chan netip.AddrPort, len(m.servers))
	for _, server := range m.servers {
		wg.Go(func() {
			if a := m.ask(ctx, server); a.IsValid() {
				found <- a
				time.AfterFunc(mappedGrace, cancel)
			}
		})
	}
	wg.Wait()
	close(found)
	var list []netip.AddrPort
	seen := map[netip.AddrPort]bool{}
	for a := range found {
		if !seen[a] {
			seen[a] = true
			list = append(list, a)
		}
	}
	return list
}

func (m *mappedAddresses) ask(ctx context.Context, server string) netip.AddrPort {
	m.mu.Lock()
	k := m.known[server]
	m.mu.Unlock()
	if k.addr.IsValid() && time.Since(k.at) < mappedFresh {
		return k.addr
	}
	to, err := m.resolve(ctx, server)
	if err != nil {
		return netip.AddrPort{}
	}
	a := m.transact(ctx, to)
	if a.IsValid() {
		m.mu.Lock()
		m.known[server] = mapping{a, time.Now()}
		m.mu.Unlock()
	}
	return a
}

func (m *mappedAddresses) resolve(ctx context.Context, server string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return netip.AddrPort{}, err
	}
	network := "ip"
	if m.socket.addr.Addr().Is4() {
		network = "ip4"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(n)), nil
}

func (m *mappedAddresses) transact(ctx context.Context, to netip.AddrPort) netip.AddrPort {
	req, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return netip.AddrPort{}
	}
	q := query{to, make(chan netip.AddrPort, 1)}
	m.mu.Lock()
	m.pending[req.TransactionID] = q
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.pending, req.TransactionID)
	}()
	again := time.NewTicker(mappedInterval)
	defer again.Stop()
	for {
		if _, err := m.socket.send(req.Raw, to); err != nil {
			return netip.AddrPort{}
		}
		select {
		case a := <-q.answer:
			return a
		case <-again.C:
		case <-ctx.Done():
			return netip.AddrPort{}
		}
	}
}

// response takes msg if it answers a query of ours; msg is the caller's again.
func (m *mappedAddresses) response(from netip.AddrPort, msg *stun.Message) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	q, ok := m.pending[msg.TransactionID]
	if !ok || q.server != from {
		return false
	}
	var x stun.XORMappedAddress
	if msg.Type.Class != stun.ClassSuccessResponse || x.GetFrom(msg) != nil {
		return true
	}
	if ip, ok := netip.AddrFromSlice(x.IP); ok && x.Port > 0 && x.Port < 1<<16 {
		select {
		case q.answer <- netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)):
		default:
		}
	}
	return true
}
