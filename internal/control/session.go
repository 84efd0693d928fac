package control

import (
	"fmt"
	"time"

	"github.com/viasnet/vias/tap"
)

// Session is one end. It is not safe for concurrent use: whoever drives it
// serialises the calls. After an error nothing happens any more,
// but that Output lets the peer know our Hello.
type Session struct {
	config  Config
	size    int // payload bytes of a segment
	started time.Time
	err     error

	send sendSide
	recv recvSide

	peer        uint64 // the peer's session ID; 0 = unknown
	confirmed   bool   // the peer echoed our ID: peer is not an echo of the past
	established bool
	hello       Hello
}

// sendSide is what is on its way to the peer.
type sendSide struct {
	queue []outgoing // by sequence number; the first one is acked+1
	bytes int        // of payloads in queue
	acked uint64     // highest acknowledged sequence number
	next  uint64     // sequence number of the next segment to send; goes back to repeat
	sent  uint64     // highest sequence number ever sent
	last  uint64     // highest sequence number in queue

	srtt, rttvar, rto time.Duration
	due               time.Time // when the first segment is sent again
	progress          time.Time // when the peer last acknowledged something, or the queue was filled
	repeats           int       // duplicate acknowledgements in a row
}

type outgoing struct {
	payload  []byte
	last     bool
	sent     time.Time // zero: not yet
	repeated bool      // no sample for the RTT (Karn)
}

// recvSide is what came from the peer.
type recvSide struct {
	done    uint64             // highest sequence number with none missing before it
	early   map[uint64]segment // segments behind a gap
	partial []byte             // the message under way
	ackDue  bool
}

// New makes a Session; its Hello is the first thing that Output has.
func New(c Config, now time.Time) (*Session, error) {
	s := &Session{config: c, started: now}
	s.size = max(minSegment, min(c.LinkMTU, maxSegment)) - headerLen
	s.send.next, s.send.rto, s.recv.early = 1, firstRTO, map[uint64]segment{}
	hello, err := encodeHello(Hello{Version: Version, Network: c.Network, MTU: uint32(max(0, c.MTU)), Capabilities: c.Capabilities})
	if err != nil {
		return nil, err
	}
	if len(hello)+1 > s.size {
		return nil, fmt.Errorf("control: hello does not fit a datagram of %d bytes", s.size+headerLen)
	}
	return s, s.Send(ChannelHello, hello, now)
}

// Established tells whether both Hellos were exchanged. Frames of the Link count
// from then on.
func (s *Session) Established() bool { return s.established && s.err == nil }

// Hello is the peer's, once Established.
func (s *Session) Hello() Hello { return s.hello }

// RTT is the smoothed round trip; 0 = not known yet.
func (s *Session) RTT() time.Duration { return s.send.srtt }

// Err is why the Session ended; nil while it lives.
func (s *Session) Err() error { return s.err }

// Queued is how many bytes wait for an acknowledgement.
func (s *Session) Queued() int { return s.send.bytes }

// Send queues a message. body is copied.
func (s *Session) Send(ch Channel, body []byte, now time.Time) error {
	n := len(body) + 1
	switch {
	case s.err != nil:
		return s.err
	case n > MaxMessage:
		return ErrTooLong
	case s.send.bytes+n > MaxQueue:
		return ErrQueueFull
	}
	if len(s.send.queue) == 0 {
		s.send.progress = now
	}
	m := append(append(make([]byte, 0, n), byte(ch)), body...)
	s.send.bytes += n
	for len(m) > 0 {
		k := min(len(m), s.size)
		s.send.queue = append(s.send.queue, outgoing{payload: m[:k], last: k == len(m)})
		s.send.last++
		m = m[k:]
	}
	return nil
}

// Input takes a datagram (whole, with its kind byte) and returns the messages that
// it completed. The datagram is not kept. Whatever is not of this session is
// ignored; an error is final.
func (s *Session) Input(datagram []byte, now time.Time) ([]Message, error) {
	if s.err != nil {
		return nil, s.err
	}
	g, ok := parseSegment(datagram)
	if !ok || !s.adopt(g) {
		return nil, nil
	}
	s.acked(g, now)
	if g.seq == 0 {
		return s.deliver(), s.err // the acknowledgement may have confirmed a Hello that waits
	}
	s.recv.ackDue = true
	if g.seq <= s.recv.done || g.seq > s.recv.done+window {
		return nil, s.err
	}
	// Before the peer has echoed our ID only its Hello is looked at: it may be a
	// late one of an earlier session.
	if !s.confirmed && g.seq != 1 {
		return nil, s.err
	}
	if _, known := s.recv.early[g.seq]; !known {
		g.payload = append([]byte(nil), g.payload...)
		s.recv.early[g.seq] = g
	}
	return s.deliver(), s.err
}

// adopt tells whether g belongs to this session, and learns the peer's ID from it.
func (s *Session) adopt(g segment) bool {
	switch {
	case g.to == s.config.ID:
		if s.confirmed {
			return g.from == s.peer
		}
		s.setPeer(g.from)
		s.confirmed = true
		return true
	case g.to != 0 || g.seq > 1:
		return false
	case s.confirmed:
		return g.from == s.peer // the peer's Hello again: our acknowledgement was lost
	case g.seq == 1:
		s.setPeer(g.from)
		return true
	}
	return false
}

func (s *Session) setPeer(id uint64) {
	if s.peer != id {
		s.peer = id
		s.recv = recvSide{early: map[uint64]segment{}}
	}
}

// deliver moves segments that are in order into messages. Nothing is delivered
// before the peer echoed our ID.
func (s *Session) deliver() (messages []Message) {
	for s.confirmed && s.err == nil {
		g, ok := s.recv.early[s.recv.done+1]
		if !ok {
			break
		}
		delete(s.recv.early, g.seq)
		s.recv.done++
		s.recv.ackDue = true
		if len(s.recv.partial)+len(g.payload) > MaxMessage {
			s.fail(fmt.Errorf("%w: message longer than %d bytes", ErrProtocol, MaxMessage))
			break
		}
		s.recv.partial = append(s.recv.partial, g.payload...)
		if !g.last {
			continue
		}
		m := Message{Channel(s.recv.partial[0]), s.recv.partial[1:]}
		s.recv.partial = nil
		switch {
		case !s.established:
			s.greeted(m)
		case m.Channel == ChannelHello:
			s.fail(fmt.Errorf("%w: a second hello", ErrProtocol))
		default:
			messages = append(messages, m)
		}
	}
	return messages
}

func (s *Session) greeted(m Message) {
	if m.Channel != ChannelHello {
		s.fail(fmt.Errorf("%w: the first message is no hello", ErrProtocol))
		return
	}
	h, err := DecodeHello(m.Body)
	switch {
	case err != nil:
		s.fail(err)
	case h.Version != Version:
		s.fail(fmt.Errorf("%w: it speaks %d, we speak %d", ErrVersion, h.Version, Version))
	case h.Network != s.config.Network:
		s.fail(fmt.Errorf("%w: it is of %q, we are of %q", ErrNetwork, clip(h.Network), s.config.Network))
	default:
		s.established, s.hello = true, h
	}
}

// clip bounds what a stranger can put into our log.
func clip(text string) string { return text[:min(len(text), MaxNetwork)] }

func (s *Session) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Output appends to b what is to be sent now, kind bytes included, until b is
// full. Call it after every Input, Send and Tick, until it appends nothing.
func (s *Session) Output(b *tap.Batch, now time.Time) {
	q := &s.send
	for s.err == nil && q.next <= q.last && q.next-q.acked <= window && b.Free() >= headerLen+s.size {
		if q.next > 1 && !s.established {
			break // the Hello goes alone: nobody listens to more before
		}
		o := &q.queue[q.next-q.acked-1]
		if q.next == q.acked+1 {
			q.due = now.Add(q.rto)
		}
		o.sent = now
		s.emit(b, q.next, o)
		q.sent = max(q.sent, q.next)
		q.next++
	}
	// After a refusal too: our acknowledgement lets the peer read our Hello, and
	// know why by itself.
	if s.recv.ackDue && b.Free() >= headerLen {
		s.emit(b, 0, &outgoing{})
	}
}

func (s *Session) emit(b *tap.Batch, seq uint64, o *outgoing) {
	g := segment{last: o.last, from: s.config.ID, to: s.peer, seq: seq, ack: s.recv.done, payload: o.payload}
	d := b.Reserve(headerLen + len(o.payload))
	g.put(d)
	b.Commit(len(d), tap.Offload{})
	s.recv.ackDue = false
}
