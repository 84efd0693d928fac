package lab

import (
	"encoding/binary"
	"io"
	"sync"
)

// Messages counts what went between nodes and their switches.
type Messages struct {
	FlowMods   int // also inside bundles
	PacketIns  int
	PacketOuts int
	All        int
}

func (m Messages) since(before Messages) Messages {
	return Messages{m.FlowMods - before.FlowMods, m.PacketIns - before.PacketIns, m.PacketOuts - before.PacketOuts, m.All - before.All}
}

// messageTally counts messages of any number of connections.
type messageTally struct {
	mu  sync.Mutex
	all Messages
}

func (t *messageTally) read() Messages {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

// OpenFlow 1.3: types of messages, and ONF's extension for bundles.
const (
	ofHeader      = 8
	ofExperiment  = 4
	ofPacketIn    = 10
	ofPacketOut   = 13
	ofFlowMod     = 14
	onfExperiment = 0x4f4e4600
	onfBundleAdd  = 2301
	onfInner      = 24 // of a bundle's message, the one that it carries
)

// note counts one message, of which b is the beginning, onfInner+2 bytes of it at most.
func (t *messageTally) note(b []byte) {
	kind := b[1]
	if kind == ofExperiment && len(b) > onfInner+1 && binary.BigEndian.Uint32(b[ofHeader:]) == onfExperiment &&
		binary.BigEndian.Uint32(b[ofHeader+4:]) == onfBundleAdd {
		kind = b[onfInner+1]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.All++
	switch kind {
	case ofPacketIn:
		t.all.PacketIns++
	case ofPacketOut:
		t.all.PacketOuts++
	case ofFlowMod:
		t.all.FlowMods++
	}
}

// pass copies messages until either end is closed, and counts them.
func (t *messageTally) pass(to io.Writer, from io.Reader) error {
	buf := make([]byte, 1<<16)
	have := 0
	for {
		n, err := from.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		whole := 0
		for have-whole >= ofHeader {
			length := int(binary.BigEndian.Uint16(buf[whole+2:]))
			if length < ofHeader {
				return io.ErrUnexpectedEOF // no OpenFlow
			}
			if have-whole < length {
				break
			}
			t.note(buf[whole : whole+length])
			whole += length
		}
		if _, err := to.Write(buf[:whole]); err != nil {
			return err
		}
		have = copy(buf, buf[whole:have])
	}
}
