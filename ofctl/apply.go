package ofctl

import (
	"context"
	"errors"
	"fmt"
)

// bundleFlags: all or nothing, and in the order given.
const bundleFlags = BundleAtomic | BundleOrdered

// Apply implements Switch. ctx ends the wait; when it does so after the switch was
// told to commit, the error matches both ctx's and ErrUnconfirmed. Several Apply may
// be under way at once, each in a bundle of its own.
func (c *Conn) Apply(ctx context.Context, mods []Mod) error {
	err := CheckMods(mods)
	switch {
	case err != nil:
	case len(mods) == 0:
		return nil
	case len(mods) == 1:
		err = sendAll(ctx, c, mods) // it is atomic by itself
	case !c.features.Capabilities.Has(CapBundle):
		err = fmt.Errorf("%w: bundles", ErrNotSupported)
	default:
		err = c.applyBundle(ctx, mods)
	}
	if err != nil {
		return fmt.Errorf("ofctl: apply: %w", err)
	}
	return nil
}

// Send sends messages one after the other, followed by a barrier, and waits until the
// switch has executed them: modifications that need not be atomic, port-mods and other
// messages that have no answer. The error is the first refusal and says which message
// was refused; the others took effect. Nothing is sent of what cannot be encoded.
//
// It is the fastest way to fill a switch: all of it is on its way before the first
// confirmation.
func (c *Conn) Send(ctx context.Context, messages ...Message) error {
	if err := sendAll(ctx, c, messages); err != nil {
		return fmt.Errorf("ofctl: send: %w", err)
	}
	return nil
}

// sendAll is Send of messages of one type.
func sendAll[M Message](ctx context.Context, c *Conn, messages []M) error {
	k, err := c.begin(len(messages) + 1)
	if err != nil {
		return err
	}
	begun, err := c.send(ctx, k, func(b []byte, xid uint32) ([]byte, error) {
		for i, m := range messages {
			var err error
			if b, err = Encode(b, xid+uint32(i), m); err != nil {
				return b, fmt.Errorf("step %d: %w", i, err)
			}
		}
		return Encode(b, xid+uint32(len(messages)), BarrierRequest{})
	})
	if err == nil {
		err = c.wait(ctx, k)
	}
	if err != nil {
		return unconfirmed(begun, err)
	}
	return firstRefusal(k, messages, 0)
}

// unconfirmed is the error of a modification that got no answer for cause. If it
// was sent, the error must not match ErrClosed: that would say that nothing was done.
func unconfirmed(sent bool, cause error) error {
	if !sent {
		return cause
	}
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, cause)
	}
	return fmt.Errorf("%w: %s", ErrUnconfirmed, cause.Error())
}

// applyBundle fills a bundle, learns that all of it was accepted, and commits it.
// That takes two round trips: Open vSwitch refuses some modifications when they
// are added, and would then commit the rest.
func (c *Conn) applyBundle(ctx context.Context, mods []Mod) error {
	id := c.bundle.Add(1)
	k, err := c.begin(len(mods) + 2)
	if err != nil {
		return err
	}
	_, err = c.send(ctx, k, func(b []byte, xid uint32) ([]byte, error) {
		return encodeBundle(b, xid, id, mods)
	})
	if err != nil {
		return err
	}
	if err = c.wait(ctx, k); err == nil {
		err = firstRefusal(k, mods, 1)
	}
	if err != nil {
		c.discard(id)
		return err
	}
	return c.commit(ctx, id, k, mods)
}

// encodeBundle appends a bundle's opening, its modifications, and its closing.
func encodeBundle(b []byte, xid, id uint32, mods []Mod) ([]byte, error) {
	b, err := Encode(b, xid, BundleControl{ID: id, Type: BundleOpen, Flags: bundleFlags})
	for i, m := range mods {
		xid++
		if err == nil {
			b, err = Encode(b, xid, BundleAdd{ID: id, Flags: bundleFlags, Mod: m})
		}
		if err != nil {
			return b, fmt.Errorf("step %d: %w", i, err)
		}
	}
	return Encode(b, xid+1, BundleControl{ID: id, Type: BundleClose, Flags: bundleFlags})
}

// commit commits a filled bundle. Refusals of single modifications come with the
// xids of call filled, which has to stay known for that.
func (c *Conn) commit(ctx context.Context, id uint32, filled *call, mods []Mod) error {
	k, err := c.begin(1)
	if err != nil {
		return err
	}
	k.adds = filled
	begun, err := c.send(ctx, k, func(b []byte, xid uint32) ([]byte, error) {
		return Encode(b, xid, BundleControl{ID: id, Type: BundleCommit, Flags: bundleFlags})
	})
	if err == nil {
		err = c.wait(ctx, k)
	}
	if err != nil {
		if !begun {
			c.discard(id)
		}
		return unconfirmed(begun, err)
	}
	if err := firstRefusal(filled, mods, 1); err != nil {
		return err
	}
	if e := k.refusedAt(0); e != nil {
		return e
	}
	return nil
}

// discard drops a bundle that will not be committed. Nobody waits for it.
func (c *Conn) discard(id uint32) {
	b, err := Encode(nil, c.xid.Add(1), BundleControl{ID: id, Type: BundleDiscard, Flags: bundleFlags})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.WriteTimeout)
	defer cancel()
	_, _ = c.write(ctx, b)
}

// firstRefusal is the first refusal of a call as an error. Its messages from the offset'th on
// are, or carry, these.
func firstRefusal[M Message](k *call, messages []M, offset int) error {
	if len(k.refused) == 0 {
		return nil
	}
	r := k.refused[0]
	i := r.index - offset
	if i < 0 || i >= len(messages) {
		return r.err
	}
	if m, ok := any(messages[i]).(Mod); ok {
		return fmt.Errorf("step %d (%s): %w", i, m, r.err)
	}
	return fmt.Errorf("step %d (%T): %w", i, messages[i], r.err)
}

// PacketOut implements Switch.
func (c *Conn) PacketOut(ctx context.Context, p PacketOut) error {
	buf := c.buffer()
	defer c.release(buf)
	b, err := Encode((*buf)[:0], c.xid.Add(1), p)
	*buf = b[:0]
	if err == nil {
		_, err = c.write(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("ofctl: packet-out: %w", err)
	}
	return nil
}
