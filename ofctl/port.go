package ofctl

import (
	"bytes"
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Port is one port of a switch (section 7.2.1).
type Port struct {
	No   uint32
	Name string // 15 bytes at most
	MAC  [6]byte
	// What a controller configures (see PortMod).
	Down       bool // administratively down
	NoReceive  bool // drops what comes in
	NoForward  bool // drops what would go out
	NoPacketIn bool // a table miss sends nothing to the controller
	// What the switch says of it.
	NoLink  bool // no carrier
	Blocked bool // by a protocol outside OpenFlow, such as 802.1D
	Live    bool // for fast failover
	// Link modes, OFPPF_*; Supported is what the port could do.
	Current, Advertised, Supported, Peer uint32
	// CurrentSpeed and MaxSpeed are in kbit/s; 0 = not known.
	CurrentSpeed, MaxSpeed uint32
}

// PortConfig is a set of the switches that a port has (OFPPC_*).
type PortConfig uint32

// Switches of a port; Port says what they do.
const (
	PortDown       PortConfig = 1 << 0
	PortNoReceive  PortConfig = 1 << 2
	PortNoForward  PortConfig = 1 << 5
	PortNoPacketIn PortConfig = 1 << 6
)

// Bits of a port's state (OFPPS_*).
const (
	portLinkDown = 1 << 0
	portBlocked  = 1 << 1
	portLive     = 1 << 2
)

const (
	portLen     = 64
	portNameLen = 16
)

// PortMod configures a port: of the bits in Mask, those in Config are set and the
// others cleared.
type PortMod struct {
	No uint32
	// MAC must be the port's: it shows that the port is the one that is meant.
	MAC          [6]byte
	Config, Mask PortConfig
	// Advertise are the link modes to offer, OFPPF_*; 0 = as they are.
	Advertise uint32
}

func (m PortMod) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	be := binary.BigEndian
	b = appendZeros(be.AppendUint32(b, m.No), 4)
	b = appendZeros(append(b, m.MAC[:]...), 2)
	b = be.AppendUint32(b, uint32(m.Config))
	b = be.AppendUint32(b, uint32(m.Mask))
	b = be.AppendUint32(b, m.Advertise)
	return ofp.TypePortMod, appendZeros(b, 4), nil
}

func takePortMod(c *ofp.Cursor) PortMod {
	m := PortMod{No: c.U32()}
	c.Skip(4)
	copy(m.MAC[:], c.Take(6))
	c.Skip(2)
	m.Config, m.Mask, m.Advertise = PortConfig(c.U32()), PortConfig(c.U32()), c.U32()
	c.Skip(4)
	return m
}

// bit is bit if set.
func bit(set bool, bit uint32) uint32 {
	if set {
		return bit
	}
	return 0
}

// Config is the switches that are set.
func (p Port) Config() PortConfig {
	return PortConfig(bit(p.Down, uint32(PortDown)) | bit(p.NoReceive, uint32(PortNoReceive)) |
		bit(p.NoForward, uint32(PortNoForward)) | bit(p.NoPacketIn, uint32(PortNoPacketIn)))
}

// SetConfig sets p's switches to those in c.
func (p *Port) SetConfig(c PortConfig) {
	p.Down, p.NoReceive = c&PortDown != 0, c&PortNoReceive != 0
	p.NoForward, p.NoPacketIn = c&PortNoForward != 0, c&PortNoPacketIn != 0
}

func (Port) multipart() uint16 { return ofp.MultipartPortDesc }

func (p Port) appendItem(b []byte) ([]byte, error) {
	be := binary.BigEndian
	b = be.AppendUint32(b, p.No)
	b = appendZeros(b, 4)
	b = append(b, p.MAC[:]...)
	b = appendZeros(b, 2)
	b = appendName(b, p.Name, portNameLen)
	b = be.AppendUint32(b, uint32(p.Config()))
	b = be.AppendUint32(b, bit(p.NoLink, portLinkDown)|bit(p.Blocked, portBlocked)|bit(p.Live, portLive))
	for _, v := range [...]uint32{p.Current, p.Advertised, p.Supported, p.Peer, p.CurrentSpeed, p.MaxSpeed} {
		b = be.AppendUint32(b, v)
	}
	return b, nil
}

func takePort(c *ofp.Cursor) (Port, error) {
	b := ofp.NewCursor(c.Take(portLen))
	p := Port{No: b.U32()}
	b.Skip(4)
	copy(p.MAC[:], b.Take(6))
	b.Skip(2)
	p.Name = takeName(&b, portNameLen)
	p.SetConfig(PortConfig(b.U32()))
	state := b.U32()
	p.NoLink, p.Blocked, p.Live = state&portLinkDown != 0, state&portBlocked != 0, state&portLive != 0
	for _, v := range [...]*uint32{&p.Current, &p.Advertised, &p.Supported, &p.Peer, &p.CurrentSpeed, &p.MaxSpeed} {
		*v = b.U32()
	}
	if b.Short() {
		return Port{}, errBadLength
	}
	return p, nil
}

// appendName appends s in n bytes, with a zero at the end.
func appendName(b []byte, s string, n int) []byte {
	start := len(b)
	b = append(b, s[:min(len(s), n-1)]...)
	for len(b) < start+n {
		b = append(b, 0)
	}
	return b
}

func takeName(c *ofp.Cursor, n int) string {
	name, _, _ := bytes.Cut(c.Take(n), []byte{0})
	return string(name)
}

func (s PortStatus) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	b = append(b, byte(s.Reason), 0, 0, 0, 0, 0, 0, 0)
	b, err := s.Port.appendItem(b)
	return ofp.TypePortStatus, b, err
}

func decodePortStatus(c *ofp.Cursor) (Message, error) {
	s := PortStatus{Reason: PortReason(c.U8())}
	c.Skip(7)
	var err error
	s.Port, err = takePort(c)
	return s, err
}
