package ofctl

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// openflowPort is what tshark knows OpenFlow by (IANA).
const openflowPort = 6653

// notDissected are its notes about bodies of extensions, which it does not look into:
// Nicira's and ONF's. What a bundle carries is among the other messages.
var notDissected = []string{"", "Experimenter action body.", "Experimenter body.", "Experimenter error body.", "Unknown OXM body."}

// TestIntegrationDissector: Wireshark's dissector, which shares no code with us, reads
// every message that Encode writes without a complaint. One capture, one call.
func TestIntegrationDissector(t *testing.T) {
	itest.Require(t, "tshark")
	var messages []Message
	for _, m := range everyMessage() {
		switch m := m.(type) {
		case Unknown, Experimenter:
			continue // not OpenFlow's
		case *SwitchError:
			m.Request = []byte{ofp.Version, ofp.TypeBarrierRequest, 0, 8, 0, 0, 0, 1}
		case PacketIn:
			m.Frame = make([]byte, 64)
			messages = append(messages, m)
			continue
		case PacketOut:
			m.Frame = make([]byte, 64)
			messages = append(messages, m)
			continue
		}
		messages = append(messages, m)
	}
	capture := pcapHeader()
	for i, m := range messages {
		b, err := Encode(nil, uint32(i+1), m)
		require.NoError(t, err)
		capture = appendSegment(capture, uint16(20000+i), b)
	}
	// And one that it has to complain about: a port-status without its port.
	broken := append([]byte(nil), 4, ofp.TypePortStatus, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	capture = appendSegment(capture, 19999, broken)
	file := filepath.Join(t.TempDir(), "openflow.pcap")
	require.NoError(t, os.WriteFile(file, capture, 0o600))
	out, err := exec.Command("tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.number",
		"-e", "openflow_v4.type", "-e", "openflow_v4.xid", "-e", "_ws.malformed", "-e", "_ws.expert.message", "-e", "openflow_v4.length").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, len(messages)+1)
	require.NotEmpty(t, strings.Split(lines[len(messages)], "|")[3], "it finds what is malformed")
	for i, line := range lines[:len(messages)] {
		f := strings.Split(line, "|")
		b, err := Encode(nil, uint32(i+1), messages[i])
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i+1), f[0])
		// A bundle-add has the type, xid and length of what it carries behind its own.
		require.Equal(t, strconv.Itoa(int(b[1])), strings.Split(f[1], ",")[0], "%T: %s", messages[i], line)
		require.Contains(t, f[2], strconv.Itoa(i+1), "%T: %s", messages[i], line)
		require.Empty(t, f[3], "malformed %T: %x", messages[i], b)
		for note := range strings.SplitSeq(f[4], ",") {
			require.Contains(t, notDissected, note, "%T %+v: %x", messages[i], messages[i], b)
		}
	}
}

// pcapHeader is that of a capture file of Ethernet frames.
func pcapHeader() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint32(b, 2|4<<16)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(b, 0x40000)
	return le.AppendUint32(b, 1)
}

// appendSegment appends a TCP segment of a connection of its own.
func appendSegment(b []byte, port uint16, payload []byte) []byte {
	be, n := binary.BigEndian, uint32(14+20+20+len(payload))
	for _, v := range []uint32{0, 0, n, n} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(b, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0)
	b = be.AppendUint16(append(b, 0x45, 0), uint16(n-14))
	b = append(b, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
	b = be.AppendUint16(be.AppendUint16(b, port), openflowPort)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0)
	return append(b, payload...)
}
