package lab

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// message is an OpenFlow 1.3 message of a type.
func message(kind byte, body ...byte) []byte {
	m := append([]byte{4, kind, 0, 0, 0, 0, 0, 1}, body...)
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	return m
}

// bundled is one inside a bundle.
func bundled(inner []byte) []byte {
	body := binary.BigEndian.AppendUint32(nil, onfExperiment)
	body = binary.BigEndian.AppendUint32(body, onfBundleAdd)
	return message(ofExperiment, append(append(body, make([]byte, 8)...), inner...)...)
}

func TestMessageTally(t *testing.T) {
	stream := bytes.Join([][]byte{message(0), message(ofFlowMod, make([]byte, 48)...), bundled(message(ofFlowMod, make([]byte, 48)...)),
		bundled(message(15)), message(ofPacketIn, make([]byte, 2000)...), message(ofPacketOut, 1, 2, 3),
		message(ofExperiment, 1, 2, 3, 4)}, nil)
	for name, from := range map[string]io.Reader{"whole": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream))} {
		var tally messageTally
		var to bytes.Buffer
		require.ErrorIs(t, tally.pass(&to, from), io.EOF, name)
		require.Equal(t, stream, to.Bytes(), name)
		require.Equal(t, Messages{FlowMods: 2, PacketIns: 1, PacketOuts: 1, All: 7}, tally.read(), name)
	}
	var tally messageTally
	require.ErrorIs(t, tally.pass(io.Discard, bytes.NewReader(make([]byte, 8))), io.ErrUnexpectedEOF)
	require.Equal(t, Messages{FlowMods: 1}, Messages{FlowMods: 3, All: 1}.since(Messages{FlowMods: 2, All: 1}))
}
