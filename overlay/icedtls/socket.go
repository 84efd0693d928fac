package icedtls

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/pion/stun/v4"

	"github.com/viasnet/vias/overlay/icedtls/internal/record"
	"github.com/viasnet/vias/overlay/icedtls/internal/udpio"
)

// First bytes of what shares the socket, RFC 7983 and RFC 9146.
const (
	lastSTUN       = 3
	firstDTLS      = 20
	lastDTLS       = 63
	recordWithCID  = 25
	cidLength      = 4
	recordCIDStart = 11 // behind type, version, epoch, sequence number
)

// socket owns the UDP socket and knows whose its datagrams are.
type socket struct {
	udp    *net.UDPConn
	io     *udpio.Conn
	addr   netip.AddrPort
	pool   *bufferPool // of datagrams
	runs   *bufferPool // of whatever one read brings
	drop   func([]byte, netip.AddrPort) bool
	drops  *drops
	mapped *mappedAddresses
	turns  turns

	// mu guards the tables. The reader takes it once a datagram.
	mu      sync.RWMutex
	byCID   map[uint32]*session
	byUfrag map[string]*generation
	byAddr  map[netip.AddrPort][]*generation // whom they exchanged STUN with; newest last
}

// socketBuffer is what is asked for: 4 MB hold 25 ms of a full gigabit.
const socketBuffer = 4 << 20

func openSocket(c *Config, d *drops) (*socket, error) {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.Listen))
	if err != nil {
		return nil, err
	}
	wholeOnly(udp)
	io, err := udpio.New(udp, socketBuffer)
	if err != nil {
		_ = udp.Close()
		return nil, err
	}
	if c.oldKernel {
		io.StepDown()
	}
	s := &socket{
		udp:     udp,
		io:      io,
		runs:    newBufferPool(udpio.BufferSize),
		addr:    unmap(udp.LocalAddr().(*net.UDPAddr).AddrPort()),
		pool:    newBufferPool(max(2048, c.UnderlayMTU)),
		drop:    c.drop,
		drops:   d,
		turns:   turns{back: make(chan struct{}, 1)},
		byCID:   map[uint32]*session{},
		byUfrag: map[string]*generation{},
		byAddr:  map[netip.AddrPort][]*generation{},
	}
	s.mapped = newMappedAddresses(s, c.STUN)
	return s, nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// send is what every datagram goes out by. What the kernel does not take now is
// lost as on any wire; only a closed socket is an error.
func (s *socket) send(b []byte, to netip.AddrPort) (int, error) {
	if s.drop != nil && s.drop(b, to) {
		return len(b), nil
	}
	one := [...][]byte{b}
	if err := s.io.Send(one[:], to); err != nil {
		return 0, err
	}
	return len(b), nil
}

// sendAll sends datagrams, which it may overwrite the list of, as send does.
func (s *socket) sendAll(datagrams [][]byte, to netip.AddrPort) error {
	if s.drop != nil {
		datagrams = slices.DeleteFunc(datagrams, func(d []byte) bool { return s.drop(d, to) })
	}
	return s.io.Send(datagrams, to)
}

// copyBelow is how long a run is worth copying, so that a short one does not occupy a
// buffer of 64 KB.
const copyBelow = 4096

// worthWhole tells whether a run of data records is to be handed over as it is.
func worthWhole(run *buffer) bool {
	last := (run.n-1)%run.size + 1 // a ping, perhaps, which must not wait in the inbox
	return run.n >= copyBelow && last > smallRecord
}

// ownRun is the session whose data records are all of a run; nil: there is none.
func (s *socket) ownRun(run *buffer) *session {
	if s.drop != nil {
		return nil
	}
	first, ok := record.Parse(run.data[:min(run.n, run.size)])
	if !ok {
		return nil
	}
	for at := run.size; at < run.n; at += run.size {
		h, ok := record.Parse(run.data[at:min(at+run.size, run.n)])
		if !ok || h.Session != first.Session {
			return nil
		}
	}
	return s.session(first.Session)
}

// split hands over each datagram of a run, copied.
func (s *socket) split(run *buffer, msg *stun.Message) {
	for at := 0; at == 0 || at < run.n; at += max(run.size, 1) {
		d := run.data[at:min(at+run.size, run.n)]
		if s.drop != nil && s.drop(d, run.from) {
			continue
		}
		b := s.pool.get()
		if len(d) > len(b.data) { // the peer's UnderlayMTU is larger than ours
			s.pool.put(b)
			b = s.runs.get()
		}
		b.n, b.from = copy(b.data, d), run.from
		if why := s.dispatch(b, msg); why != causeNone {
			s.drops.add(why)
			s.pool.put(b)
		}
	}
}

// session is the one with that connection ID, or index of data records; nil = none.
func (s *socket) session(id uint32) *session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byCID[id]
}

// dispatch hands b over to its session; else it says why not, and b is still ours. msg
// is scratch memory.
func (s *socket) dispatch(b *buffer, msg *stun.Message) cause {
	if b.n == 0 {
		return causeTruncated
	}
	switch first := b.data[0]; {
	case first <= lastSTUN:
		return s.dispatchSTUN(b, msg)
	case first == recordWithCID:
		if b.n < recordCIDStart+cidLength {
			return causeTruncated
		}
		return s.session(binary.BigEndian.Uint32(b.data[recordCIDStart:])).putDTLS(b)
	case first == record.Type:
		h, ok := record.Parse(b.bytes())
		if !ok {
			return causeTruncated
		}
		b.size = b.n
		if to := s.session(h.Session); to == nil || !to.putData(b) {
			return causeUnknown
		}
		return causeNone
	case first >= firstDTLS && first <= lastDTLS:
		s.mu.RLock()
		to := newest(s.byAddr[b.from])
		s.mu.RUnlock()
		return to.putDTLS(b)
	}
	return causeForeign
}

// newest is the session that handshake records from a place are for: the newest that is not
// complete, or else the newest, whose peer may not have seen our last flight.
func newest(list []*generation) *session {
	if len(list) == 0 {
		return nil
	}
	for _, g := range slices.Backward(list) {
		if !g.session.complete.Load() {
			return g.session
		}
	}
	return list[len(list)-1].session
}

// dispatchSTUN: a request names the agent by its user name (RFC 8445, section
// 7.2.2); a response goes to all that sent to where it comes from, and the agent
// whose transaction it is takes it.
func (s *socket) dispatchSTUN(b *buffer, msg *stun.Message) cause {
	if !stun.IsMessage(b.bytes()) {
		return causeForeign
	}
	msg.Raw = append(msg.Raw[:0], b.bytes()...)
	if msg.Decode() != nil {
		return causeTruncated
	}
	if msg.Type.Class == stun.ClassRequest || msg.Type.Class == stun.ClassIndication {
		name, err := msg.Get(stun.AttrUsername)
		if err != nil {
			return causeForeign
		}
		ufrag, _, _ := strings.Cut(string(name), ":")
		s.mu.RLock()
		to := s.byUfrag[ufrag]
		s.mu.RUnlock()
		if to == nil || !to.putSTUN(b) {
			return causeUnknown
		}
		return causeNone
	}
	if s.mapped.response(b.from, msg) {
		s.pool.put(b)
		return causeNone
	}
	s.mu.RLock()
	list := s.byAddr[b.from]
	s.mu.RUnlock()
	for i, to := range list { // list is never changed in place
		if i == len(list)-1 {
			if to.putSTUN(b) {
				return causeNone
			}
			break
		}
		c := s.pool.get()
		c.n, c.from = copy(c.data, b.bytes()), b.from
		if !to.putSTUN(c) {
			s.pool.put(c)
		}
	}
	return causeUnknown
}

// add makes the session's records find it and chooses its connection ID.
func (s *socket) add(x *session, random func() uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x.cid == 0 || x.cid == record.Cookie || s.byCID[x.cid] != nil {
		x.cid = random()
	}
	s.byCID[x.cid] = x
}

func (s *socket) remove(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byCID[x.cid] == x {
		delete(s.byCID, x.cid)
	}
}

// addGeneration makes STUN requests to g find it.
func (s *socket) addGeneration(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byUfrag[g.ufrag] = g
}

// maxSessionAddrs bounds how many addresses one generation can occupy.
const maxSessionAddrs = 4 * maxCandidates

// meet records that g exchanges STUN with addr.
func (s *socket) meet(g *generation, addr netip.AddrPort) {
	s.mu.RLock()
	known := slices.Contains(s.byAddr[addr], g)
	s.mu.RUnlock()
	if known {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byUfrag[g.ufrag] != g || len(g.addrs) >= maxSessionAddrs || slices.Contains(s.byAddr[addr], g) {
		return // closed, greedy, or another goroutine was faster
	}
	g.addrs = append(g.addrs, addr)
	s.byAddr[addr] = append(slices.Clone(s.byAddr[addr]), g)
}

func (s *socket) removeGeneration(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byUfrag[g.ufrag] != g {
		return
	}
	delete(s.byUfrag, g.ufrag)
	for _, a := range g.addrs {
		rest := slices.DeleteFunc(slices.Clone(s.byAddr[a]), func(h *generation) bool { return h == g })
		if len(rest) == 0 {
			delete(s.byAddr, a)
		} else {
			s.byAddr[a] = rest
		}
	}
}
