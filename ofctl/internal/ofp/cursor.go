package ofp

import "encoding/binary"

// Cursor reads big-endian values off a message. It never reads beyond the end:
// from the first attempt on, Short is true and everything reads as zero, so that a
// decoder needs to look once, at its end.
type Cursor struct {
	b     []byte
	short bool
}

// NewCursor starts at b's first byte. What Take returns aliases b.
func NewCursor(b []byte) Cursor { return Cursor{b: b} }

// Take is the next n bytes.
func (c *Cursor) Take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.short, c.b = true, nil
		return nil
	}
	b := c.b[:n:n]
	c.b = c.b[n:]
	return b
}

// Skip leaves out n bytes.
func (c *Cursor) Skip(n int) { c.Take(n) }

// Len is how many bytes are left.
func (c *Cursor) Len() int { return len(c.b) }

// Rest is all that is left.
func (c *Cursor) Rest() []byte { return c.Take(len(c.b)) }

// Short tells whether somebody read beyond the end.
func (c *Cursor) Short() bool { return c.short }

// U8 is the next byte.
func (c *Cursor) U8() uint8 {
	if b := c.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 is the next two bytes.
func (c *Cursor) U16() uint16 {
	if b := c.Take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// U32 is the next four bytes.
func (c *Cursor) U32() uint32 {
	if b := c.Take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// U64 is the next eight bytes.
func (c *Cursor) U64() uint64 {
	if b := c.Take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
