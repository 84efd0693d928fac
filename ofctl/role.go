package ofctl

import (
	"encoding/binary"
	"strconv"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Role is what a controller is to a switch (OFPCR_ROLE_*, section 6.3.5).
type Role uint32

// Roles. Every connection begins as Equal. A switch has one Master at most: who
// becomes it makes the former one a Slave, which may read, and gets port changes only.
const (
	RoleNoChange Role = iota // only asks
	RoleEqual
	RoleMaster
	RoleSlave
)

// String is ovs-ofctl's word for the role.
func (r Role) String() string {
	names := [...]string{"nochange", "equal", "master", "slave"}
	if int(r) < len(names) {
		return names[r]
	}
	return "role" + strconv.FormatUint(uint64(r), 10)
}

// RoleRequest changes the connection's role. A change to Master or Slave with a
// GenerationID older than the newest that the switch has seen, counted modulo 2^64, is
// refused (OFPRRFC_STALE): so an old master that comes back late learns that it is none.
type RoleRequest struct {
	Role         Role
	GenerationID uint64
}

// RoleReply is the role that the connection has now.
type RoleReply struct {
	Role         Role
	GenerationID uint64
}

func appendRole(b []byte, r Role, generation uint64) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(r))
	return binary.BigEndian.AppendUint64(appendZeros(b, 4), generation)
}

func takeRole(c *ofp.Cursor) (Role, uint64) {
	r := Role(c.U32())
	c.Skip(4)
	return r, c.U64()
}

func (m RoleRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeRoleRequest, appendRole(b, m.Role, m.GenerationID), nil
}

func (m RoleReply) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeRoleReply, appendRole(b, m.Role, m.GenerationID), nil
}

// Async says which events a connection gets: bit n of each is for reason n, as in
// PacketIn.Reason, PortReason and RemovedReason.
type Async struct{ PacketIn, PortStatus, FlowRemoved uint32 }

// AllEvents is every event of OpenFlow 1.3, packets whose TTL ran out included, which
// are off by default (section 7.3.10). For flows that go with their meter Open vSwitch
// looks at the bit of OpenFlow 1.4's OFPRR_METER_DELETE; it is set, too.
func AllEvents() Async { return Async{PacketIn: 0x7, PortStatus: 0x7, FlowRemoved: 0x1f} }

// SetAsync chooses the events that this connection gets as Master or Equal, and those
// that it gets as Slave.
type SetAsync struct{ Master, Slave Async }

// AsyncRequest asks for this choice.
type AsyncRequest struct{}

// AsyncReply is the answer to AsyncRequest.
type AsyncReply struct{ Master, Slave Async }

func appendAsync(b []byte, m, s Async) []byte {
	for _, v := range [...]uint32{m.PacketIn, s.PacketIn, m.PortStatus, s.PortStatus, m.FlowRemoved, s.FlowRemoved} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func takeAsync(c *ofp.Cursor) (m, s Async) {
	for _, v := range [...]*uint32{&m.PacketIn, &s.PacketIn, &m.PortStatus, &s.PortStatus, &m.FlowRemoved, &s.FlowRemoved} {
		*v = c.U32()
	}
	return m, s
}

func (m SetAsync) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeSetAsync, appendAsync(b, m.Master, m.Slave), nil
}

func (AsyncRequest) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeGetAsyncRequest, b, nil
}

func (m AsyncReply) appendBody(b []byte, _ uint32) (uint8, []byte, error) {
	return ofp.TypeGetAsyncReply, appendAsync(b, m.Master, m.Slave), nil
}
