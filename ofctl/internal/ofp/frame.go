package ofp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFrame: the bytes on the stream are no OpenFlow, and where the next message
// starts is unknown.
var ErrFrame = errors.New("ofctl: not an OpenFlow message")

// Header is how every message starts.
type Header struct {
	Version, Type uint8
	Length        uint16
	XID           uint32
}

// ParseHeader reads the first HeaderLen bytes of b, which must be there.
func ParseHeader(b []byte) Header {
	return Header{
		Version: b[0], Type: b[1],
		Length: binary.BigEndian.Uint16(b[2:]),
		XID:    binary.BigEndian.Uint32(b[4:]),
	}
}

// Read reads one whole message, header included, into memory of its own. An error
// that matches ErrFrame means that the stream is out of step.
func Read(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(HeaderLen)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	h := ParseHeader(head)
	if h.Length < HeaderLen {
		return nil, fmt.Errorf("%w: length %d", ErrFrame, h.Length)
	}
	// Only a hello, and the error that refuses one, may have another version.
	if h.Version != Version && h.Type != TypeHello && h.Type != TypeError {
		return nil, fmt.Errorf("%w: version %d", ErrFrame, h.Version)
	}
	b := make([]byte, h.Length)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}
