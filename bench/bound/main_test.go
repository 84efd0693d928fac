//go:build linux

package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRecords has frames sealed, received in pieces, and lost.
func TestRecords(t *testing.T) {
	block, err := aes.NewCipher(make([]byte, 16))
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	frames := [][]byte{bytes.Repeat([]byte("a"), 60), bytes.Repeat([]byte("b"), 1420), bytes.Repeat([]byte("c"), 1421), bytes.Repeat([]byte("d"), 65000)}
	for name, most := range map[string]int{"frames": 2 * mostBytes, "datagrams": datagram - lead - aead.Overhead()} {
		t.Run(name, func(t *testing.T) {
			s, o := &sealer{aead: aead, most: most}, &opener{aead: aead, most: most}
			var stream []byte
			for _, f := range frames {
				stream = s.seal(stream, f)
			}
			var got [][]byte
			for ; len(stream) > 0; stream = stream[min(len(stream), 9000):] {
				o.in = append(bytes.Clone(o.in), stream[:min(len(stream), 9000)]...)
				for f := o.open(); f != nil; f = o.open() {
					got = append(got, bytes.Clone(f))
				}
			}
			require.Equal(t, frames, got)

			forged := s.seal(nil, frames[3])
			forged[len(forged)-1] ^= 1
			o.in = forged
			require.Nil(t, o.open())
			o.in = s.seal(nil, frames[0])
			require.Equal(t, frames[0], o.open(), "after a loss it begins anew")
		})
	}
}
