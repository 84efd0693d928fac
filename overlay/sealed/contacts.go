package sealed

import (
	"bytes"
	"crypto/rand"
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	// askLife is how long after we asked a card is taken. It bounds how wrong our idea
	// of a peer's clock can be made by holding the card back.
	askLife  = 10 * time.Second
	askFirst = 200 * time.Millisecond // until we ask again, if there is need
	askLast  = 2 * time.Second
	// Messages that wait for a card: for one peer, and bytes for all.
	maxWaiting      = 4
	maxWaitingBytes = 4 << 20
	maxWaitingTime  = askLife
	// Clocks that differ by more than maxSkew are worth a warning: it is nothing to us, but
	// what is in the messages and in certificates has times of its own.
	maxSkew = 5 * time.Minute
)

// contact is a peer that we send to.
type contact struct {
	key    *publicKey // nil = not known yet
	offset int64      // its clock - ours, µs
	stamp  int64      // of the last message to it
	used   int64      // when
	skewed bool       // we have said that the clocks differ

	asking   bool
	nonce    [nonceLength]byte
	since    int64 // when we first asked with it
	last     int64 // and last
	wait     time.Duration
	answered int64 // when the key came
	queue    []waitingMessage
}

type waitingMessage struct {
	body []byte
	at   int64
}

// contacts are the peers that we send to. The one that was not needed for longest is
// forgotten when there are too many: it can be asked again.
type contacts struct {
	max   int
	bytes int // that wait
	all   map[overlay.PeerID]*contact
}

func newContacts(most int) contacts {
	return contacts{max: most, all: map[overlay.PeerID]*contact{}}
}

// get returns the peer's contact, and makes it.
func (c *contacts) get(peer overlay.PeerID, now int64) *contact {
	x := c.all[peer]
	if x == nil {
		if len(c.all) >= c.max {
			c.forget()
		}
		x = &contact{}
		c.all[peer] = x
	}
	x.used = now
	return x
}

func (c *contacts) forget() {
	var oldest overlay.PeerID
	first := true
	for id, x := range c.all {
		if first || x.used < c.all[oldest].used {
			oldest, first = id, false
		}
	}
	c.drop(c.all[oldest])
	delete(c.all, oldest)
}

// to is what it takes to seal a message to peer now: its key (nil = not known) and the
// stamp, which grows with every message.
func (c *contacts) to(peer overlay.PeerID, now int64) (*publicKey, int64) {
	x := c.get(peer, now)
	if x.key == nil {
		return nil, 0
	}
	x.stamp = max(x.stamp+1, now+x.offset)
	return x.key, x.stamp
}

// keep has a message wait for the peer's key. The oldest give way.
func (c *contacts) keep(peer overlay.PeerID, msg []byte, now int64) {
	x := c.get(peer, now)
	if slices.ContainsFunc(x.queue, func(w waitingMessage) bool { return bytes.Equal(w.body, msg) }) {
		return // it is sent again since nothing came back yet
	}
	if len(x.queue) == maxWaiting {
		c.bytes -= len(x.queue[0].body)
		x.queue = slices.Delete(x.queue, 0, 1)
	}
	if c.bytes+len(msg) > maxWaitingBytes {
		return
	}
	x.queue = append(x.queue, waitingMessage{slices.Clone(msg), now})
	c.bytes += len(msg)
}

// drop empties the queue.
func (c *contacts) drop(x *contact) {
	for _, w := range x.queue {
		c.bytes -= len(w.body)
	}
	x.queue = nil
}

// ask is the packet that asks for the peer's key; nil = it is too early to ask again. A
// nonce is asked with until its life is over, lest a slow answer be always too late.
func (c *contacts) ask(peer overlay.PeerID, now int64) []byte {
	x := c.get(peer, now)
	switch {
	case x.asking && now-x.since <= askLife.Microseconds():
		if now-x.last < x.wait.Microseconds() {
			return nil
		}
	case x.key != nil && now-x.answered < askFirst.Microseconds():
		return nil // just answered: somebody plays with us
	default:
		_, _ = rand.Read(x.nonce[:]) // never fails
		x.asking, x.since, x.wait = true, now, askFirst
	}
	x.last, x.wait = now, min(2*x.wait, askLast)
	return askPacket(x.nonce)
}

// asked is the nonce that a card of the peer has to have.
func (c *contacts) asked(peer overlay.PeerID, now int64) (nonce [nonceLength]byte, ok bool) {
	x := c.all[peer]
	if x == nil || !x.asking || now-x.since > askLife.Microseconds() {
		return nonce, false
	}
	return x.nonce, true
}

// learn takes what a card said, or a first message, and returns the messages that waited for it.
func (c *contacts) learn(peer overlay.PeerID, key *publicKey, offset, now int64) (queue [][]byte) {
	x := c.get(peer, now)
	x.key, x.offset, x.asking, x.answered, x.stamp = key, offset, false, now, 0
	for _, w := range x.queue {
		if now-w.at <= maxWaitingTime.Microseconds() {
			queue = append(queue, w.body)
		}
	}
	c.drop(x)
	return queue
}

// hear takes the key and clock that came with the newest message of a peer, and returns
// the messages that waited for a key. The message may have been held back, which makes
// the clock appear to be behind: of one key the best offset counts.
func (c *contacts) hear(peer overlay.PeerID, key *publicKey, offset, now int64) (queue [][]byte) {
	x := c.get(peer, now)
	if x.key == nil {
		return c.learn(peer, key, offset, now)
	}
	if x.key.name != key.name {
		x.key, x.offset, x.stamp = key, offset, 0
	}
	x.offset = max(x.offset, offset)
	return nil
}

// skew returns by how much peer's clock is ahead of ours if that is new and more than
// maxSkew, else 0. Messages may have been on their way for a while, so it is rough.
func (c *contacts) skew(peer overlay.PeerID) time.Duration {
	x := c.all[peer]
	if x == nil {
		return 0
	}
	d := time.Duration(x.offset) * time.Microsecond
	if d.Abs() <= maxSkew {
		x.skewed = false
		return 0
	}
	if x.skewed {
		return 0
	}
	x.skewed = true
	return d
}

// named tells whether that is the key that we use for peer.
func (c *contacts) named(peer overlay.PeerID, name keyName) bool {
	x := c.all[peer]
	return x != nil && x.key != nil && x.key.name == name
}
