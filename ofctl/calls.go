package ofctl

import (
	"context"
	"fmt"
)

// call is a request, of one or several messages, that waits for its answer.
type call struct {
	// first and n are the xids of the request's messages; the last one's answer
	// ends the call.
	first, n uint32
	done     chan struct{}
	// adds is the call that filled the bundle which this call commits.
	adds *call
	// What follows is the reader's until done is closed.
	replies []Message
	refused []refusal
	err     error // an answer that could not be read
}

// refusal is an error message for the xid'th message of a call.
type refusal struct {
	index int
	err   *SwitchError
}

func (c *call) last() uint32 { return c.first + c.n - 1 }

// has tells whether one of k's messages has this xid; xids count modulo 2^32.
func (c *call) has(xid uint32) bool { return xid-c.first < c.n }

// refusedAt is the first refusal of a message, nil without one.
func (c *call) refusedAt(index int) *SwitchError {
	for _, r := range c.refused {
		if r.index == index {
			return r.err
		}
	}
	return nil
}

// begin registers a call of n messages.
func (c *Conn) begin(n int) (*call, error) {
	k := &call{n: uint32(n), done: make(chan struct{})}
	k.first = c.xid.Add(k.n) - k.n + 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, c.cause
	}
	c.calls[k.last()] = k
	return k, nil
}

// forget gives up on a call.
func (c *Conn) forget(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, k.last())
}

// wait returns when k is answered, the connection is lost, or ctx ends.
func (c *Conn) wait(ctx context.Context, k *call) error {
	defer c.forget(k)
	select {
	case <-k.done:
		return k.err
	case <-c.lost:
		// The answer may have come with the stream's last bytes.
		select {
		case <-k.done:
			return k.err
		default:
			return c.cause
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// buffer is an empty buffer to encode a request into; release takes it back.
func (c *Conn) buffer() *[]byte {
	if b, ok := c.scratch.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

func (c *Conn) release(b *[]byte) {
	if cap(*b) <= maxScratch {
		c.scratch.Put(b)
	}
}

// maxScratch is the largest buffer that is kept.
const maxScratch = 256 << 10

// send encodes the messages of a call and writes them at once. begun says that some
// of it may have reached the switch.
func (c *Conn) send(ctx context.Context, k *call, messages func(b []byte, xid uint32) ([]byte, error)) (begun bool, err error) {
	buf := c.buffer()
	defer c.release(buf)
	b, err := messages((*buf)[:0], k.first)
	*buf = b[:0]
	if err == nil {
		begun, err = c.write(ctx, b)
	}
	if err != nil {
		c.forget(k)
	}
	return begun, err
}

// ask sends request and returns all of its replies.
func (c *Conn) ask(ctx context.Context, request Message) ([]Message, error) {
	k, err := c.begin(1)
	if err != nil {
		return nil, err
	}
	_, err = c.send(ctx, k, func(b []byte, xid uint32) ([]byte, error) { return Encode(b, xid, request) })
	if err != nil {
		return nil, err
	}
	if err := c.wait(ctx, k); err != nil {
		return nil, err
	}
	if e := k.refusedAt(0); e != nil {
		return nil, e
	}
	return k.replies, nil
}

// Ask sends a request to the switch and returns its answer, which is of the request's
// type: a PortStatsRequest brings []PortStat.
func Ask[T any](ctx context.Context, c *Conn, request Request[T]) (T, error) {
	return dump(ctx, c, fmt.Sprintf("%T", request), request)
}

// dispatch hands m to the call or the watchers that it is for.
func (c *Conn) dispatch(xid uint32, m Message) {
	switch m := m.(type) {
	case PacketIn:
		c.publish(m)
	case FlowRemoved:
		c.publish(m)
	case PortStatus:
		c.publish(m)
	case EchoRequest:
		// The reader must not wait for a write: a switch that waits for us to read
		// would wait for ever. Of echo requests that pile up one answer is enough.
		select {
		case c.echoes <- echo{xid, m.Data}:
		default:
		}
	case *SwitchError:
		if !c.refuse(xid, m) {
			c.publish(Refused{Err: m})
		}
	default:
		part, ok := m.(interface{ more() bool })
		c.reply(xid, m, !ok || !part.more())
	}
}

// reply adds m to the call that xid ends. Replies to other messages of a call, such
// as to a bundle's opening, say nothing that its end does not.
func (c *Conn) reply(xid uint32, m Message, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[xid]
	if k == nil {
		return
	}
	k.replies = append(k.replies, m)
	if last {
		c.endLocked(k)
	}
}

func (c *Conn) endLocked(k *call) {
	delete(c.calls, k.last())
	close(k.done)
}

// refuse notes a refusal with the call that has this xid; ok is false if none has.
func (c *Conn) refuse(xid uint32, e *SwitchError) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[xid]
	if k == nil {
		k = c.ownerLocked(xid)
	}
	if k == nil {
		return false
	}
	k.refused = append(k.refused, refusal{index: int(xid - k.first), err: e})
	if c.calls[xid] == k {
		c.endLocked(k)
	}
	return true
}

// ownerLocked is the call that has a message with this xid. Refusals are rare
// enough to look for it.
func (c *Conn) ownerLocked(xid uint32) *call {
	for _, k := range c.calls {
		if k.has(xid) {
			return k
		}
		if k.adds != nil && k.adds.has(xid) {
			return k.adds
		}
	}
	return nil
}

// failCall ends the call that xid ends with an answer that could not be read.
func (c *Conn) failCall(xid uint32, err error) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[xid]
	if k == nil {
		return false
	}
	k.err = err
	c.endLocked(k)
	return true
}

// Flows implements Switch.
func (c *Conn) Flows(ctx context.Context, filter FlowFilter) ([]FlowStat, error) {
	return dump(ctx, c, "flows", filter)
}

// Aggregate implements Switch.
func (c *Conn) Aggregate(ctx context.Context, filter FlowFilter) (Aggregate, error) {
	return dump(ctx, c, "aggregate", AggregateRequest{filter})
}

// Groups implements Switch.
func (c *Conn) Groups(ctx context.Context) ([]Group, error) {
	return dump(ctx, c, "groups", GroupDescRequest{})
}

// Ports implements Switch.
func (c *Conn) Ports(ctx context.Context) ([]Port, error) {
	return dump(ctx, c, "ports", PortDescRequest{})
}

// dump is Ask with an error that says what for.
func dump[T any](ctx context.Context, c *Conn, what string, request Request[T]) (T, error) {
	replies, err := c.ask(ctx, request)
	if err == nil {
		var answer T
		if answer, err = request.answer(replies); err == nil {
			return answer, nil
		}
	}
	var none T
	return none, fmt.Errorf("ofctl: ask for %s: %w", what, err)
}
