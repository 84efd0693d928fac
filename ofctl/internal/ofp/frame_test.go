package ofp

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadMessages(t *testing.T) {
	stream := []byte{4, 0, 0, 8, 0, 0, 0, 1, 4, 2, 0, 10, 0, 0, 0, 2, 'h', 'i', 6, 0, 0, 8, 0, 0, 0, 3}
	r := bufio.NewReader(bytes.NewReader(stream))
	for _, want := range [][]byte{stream[:8], stream[8:18], stream[18:]} {
		b, err := Read(r)
		require.NoError(t, err)
		require.Equal(t, want, b)
	}
	_, err := Read(r)
	require.ErrorIs(t, err, io.EOF)
}

func TestReadRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		bytes []byte
		want  error
	}{
		"too short a length": {[]byte{4, 0, 0, 7, 0, 0, 0, 1}, ErrFrame},
		"other version":      {[]byte{1, 2, 0, 8, 0, 0, 0, 1}, ErrFrame},
		"cut header":         {[]byte{4, 2, 0}, io.ErrUnexpectedEOF},
		"cut body":           {[]byte{4, 2, 0, 9, 0, 0, 0, 1}, io.ErrUnexpectedEOF},
	} {
		_, err := Read(bufio.NewReader(bytes.NewReader(row.bytes)))
		require.ErrorIs(t, err, row.want, name)
	}
}

func TestCursorStaysShort(t *testing.T) {
	c := NewCursor([]byte{1, 2, 3})
	require.EqualValues(t, 1, c.U8())
	require.Zero(t, c.U32())
	require.True(t, c.Short())
	require.Zero(t, c.U8(), "nothing is read behind a gap")
	require.Nil(t, c.Take(-1))
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{4, 0, 0, 8, 0, 0, 0, 1, 4, 2, 0, 10, 0, 0, 0, 2, 'h', 'i'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for at := 0; ; {
			m, err := Read(r)
			if err != nil {
				return
			}
			require.Equal(t, b[at:at+len(m)], m)
			at += len(m)
		}
	})
}
