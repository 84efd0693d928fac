package icedtls

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	udp     *net.UDPConn
	io      *udpio.Conn
	addr    netip.AddrPort
	pool    *bufferPool // of datagrams
	runs    *bufferPool // of whatever one read brings
	drop    func([]byte, netip.AddrPort) bool
	dropped *atomic.Uint64
	mapped  *mappedAddresses
	turns   turns

	// mu guards the tables. The reader takes it once a datagram.
	mu      sync.RWMutex
	byCID   map[uint32]*session
	byUfrag map[string]*session
	byAddr  map[netip.AddrPort][]*session // whom they exchanged STUN with; newest last
}

// socketBuffer is what is asked for: 4 MB hold 25 ms of a full gigabit.
const socketBuffer = 4 << 20

func openSocket(c *Config, dropped *atomic.Uint64) (*socket, error) {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.Listen))
	if err != nil {
		return nil, err
	}
	io, err := udpio.New(udp, socketBuffer)
	if err != nil {
		_ = udp.Close()
		return nil, err
	}
	s := &socket{
		udp:     udp,
		io:      io,
		runs:    newBufferPool(udpio.BufferSize),
		addr:    unmap(udp.LocalAddr().(*net.UDPAddr).AddrPort()),
		pool:    newBufferPool(max(2048, c.UnderlayMTU)),
		drop:    c.drop,
		dropped: dropped,
		turns:   turns{back: make(chan struct{}, 1)},
		byCID:   map[uint32]*session{},
		byUfrag: map[string]*session{},
		byAddr:  map[netip.AddrPort][]*session{},
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
	if _, err := s.udp.WriteToUDPAddrPort(b, to); err != nil {
		if errors.Is(err, net.ErrClosed) {
			return 0, err
		}
		s.dropped.Add(1)
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
		if !s.dispatch(b, msg) {
			s.dropped.Add(1)
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

// dispatch hands b over to its session; false: it has none, b is still ours. msg
// is scratch memory.
func (s *socket) dispatch(b *buffer, msg *stun.Message) bool {
	if b.n == 0 {
		return false
	}
	switch first := b.data[0]; {
	case first <= lastSTUN:
		return s.dispatchSTUN(b, msg)
	case first == recordWithCID:
		if b.n < recordCIDStart+cidLength {
			return false
		}
		to := s.session(binary.BigEndian.Uint32(b.data[recordCIDStart:]))
		return to != nil && to.putDTLS(b)
	case first == record.Type:
		h, ok := record.Parse(b.bytes())
		if !ok {
			return false
		}
		b.size = b.n
		to := s.session(h.Session)
		return to != nil && to.putData(b)
	case first >= firstDTLS && first <= lastDTLS:
		s.mu.RLock()
		to := newest(s.byAddr[b.from])
		s.mu.RUnlock()
		return to != nil && to.putDTLS(b)
	}
	return false
}

func newest(list []*session) *session {
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}

// dispatchSTUN: a request names the agent by its user name (RFC 8445, section
// 7.2.2); a response goes to all that sent to where it comes from, and the agent
// whose transaction it is takes it.
func (s *socket) dispatchSTUN(b *buffer, msg *stun.Message) bool {
	msg.Raw = append(msg.Raw[:0], b.bytes()...)
	if !stun.IsMessage(b.bytes()) || msg.Decode() != nil {
		return false
	}
	if msg.Type.Class == stun.ClassRequest || msg.Type.Class == stun.ClassIndication {
		name, err := msg.Get(stun.AttrUsername)
		if err != nil {
			return false
		}
		ufrag, _, _ := strings.Cut(string(name), ":")
		s.mu.RLock()
		to := s.byUfrag[ufrag]
		s.mu.RUnlock()
		return to != nil && to.putSTUN(b)
	}
	if s.mapped.response(b.from, msg) {
		s.pool.put(b)
		return true
	}
	s.mu.RLock()
	list := s.byAddr[b.from]
	s.mu.RUnlock()
	for i, to := range list { // list is never changed in place
		if i == len(list)-1 {
			return to.putSTUN(b)
		}
		c := s.pool.get()
		c.n, c.from = copy(c.data, b.bytes()), b.from
		if !to.putSTUN(c) {
			s.pool.put(c)
		}
	}
	return false
}

// add makes the session's datagrams find it and chooses its connection ID.
func (s *socket) add(x *session, random func() uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x.cid == 0 || x.cid == record.Cookie || s.byCID[x.cid] != nil {
		x.cid = random()
	}
	s.byCID[x.cid], s.byUfrag[x.ufrag] = x, x
}

// maxSessionAddrs bounds how many addresses one session can occupy.
const maxSessionAddrs = 4 * maxCandidates

// meet records that x exchanges STUN with addr.
func (s *socket) meet(x *session, addr netip.AddrPort) {
	s.mu.RLock()
	known := slices.Contains(s.byAddr[addr], x)
	s.mu.RUnlock()
	if known {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byCID[x.cid] != x || len(x.addrs) >= maxSessionAddrs || slices.Contains(s.byAddr[addr], x) {
		return // closed, greedy, or another goroutine was faster
	}
	x.addrs = append(x.addrs, addr)
	s.byAddr[addr] = append(slices.Clone(s.byAddr[addr]), x)
}

func (s *socket) remove(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byCID[x.cid] != x {
		return
	}
	delete(s.byCID, x.cid)
	delete(s.byUfrag, x.ufrag)
	for _, a := range x.addrs {
		rest := slices.DeleteFunc(slices.Clone(s.byAddr[a]), func(y *session) bool { return y == x })
		if len(rest) == 0 {
			delete(s.byAddr, a)
		} else {
			s.byAddr[a] = rest
		}
	}
}
