package ofctltest

import (
	"github.com/viasnet/vias/ofctl"
)

// roles is who is master among the connections of a served switch. Switch.mu guards it.
type roles struct {
	master *session
	// generation is the newest that anybody gave; meaningless unless known.
	generation uint64
	known      bool
}

// Codes of ErrTypeRoleRequestFailed and OFPBRC_IS_SLAVE.
const (
	roleStale      = 0
	roleBad        = 2
	badRequestRole = 10
)

// role executes a role request (section 6.3.5).
func (s *session) role(xid uint32, m ofctl.RoleRequest) error {
	if err := s.setRole(m); err != nil {
		return err
	}
	s.sw.mu.Lock()
	reply := ofctl.RoleReply{Role: s.now, GenerationID: ^uint64(0)}
	if s.sw.roles.known {
		reply.GenerationID = s.sw.roles.generation
	}
	s.sw.mu.Unlock()
	return s.send(xid, reply)
}

func (s *session) setRole(m ofctl.RoleRequest) error {
	s.sw.mu.Lock()
	defer s.sw.mu.Unlock()
	r := &s.sw.roles
	switch m.Role {
	case ofctl.RoleNoChange:
		return nil
	case ofctl.RoleEqual:
	case ofctl.RoleMaster, ofctl.RoleSlave:
		if r.known && int64(m.GenerationID-r.generation) < 0 {
			return refuse(ofctl.ErrTypeRoleRequestFailed, roleStale)
		}
		r.generation, r.known = m.GenerationID, true
	default:
		return refuse(ofctl.ErrTypeRoleRequestFailed, roleBad)
	}
	if m.Role == ofctl.RoleMaster && r.master != nil && r.master != s {
		r.master.now = ofctl.RoleSlave
	}
	if r.master == s {
		r.master = nil
	}
	if m.Role == ofctl.RoleMaster {
		r.master = s
	}
	s.now = m.Role
	return nil
}

// leaves forgets a session that has ended.
func (s *session) leaves() {
	s.sw.mu.Lock()
	defer s.sw.mu.Unlock()
	if s.sw.roles.master == s {
		s.sw.roles.master = nil
	}
}

// mayChange is why the session may not change the switch, or nil.
func (s *session) mayChange() error {
	s.sw.mu.Lock()
	defer s.sw.mu.Unlock()
	if s.now == ofctl.RoleSlave {
		return refuse(ofctl.ErrTypeBadRequest, badRequestRole)
	}
	return nil
}

// wants tells whether the session gets ev, by its role and its SetAsync.
func (s *session) wants(ev ofctl.Event) bool {
	s.sw.mu.Lock()
	slave := s.now == ofctl.RoleSlave
	s.sw.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	mask := s.async.Master
	if slave {
		mask = s.async.Slave
	}
	switch ev := ev.(type) {
	case ofctl.PacketIn:
		return s.packetIns && mask.PacketIn>>ev.Reason&1 == 1
	case ofctl.FlowRemoved:
		return mask.FlowRemoved>>ev.Reason&1 == 1
	case ofctl.PortStatus:
		return mask.PortStatus>>ev.Reason&1 == 1
	}
	return true
}

// defaultAsync is what a session gets unless it asks otherwise (section 7.3.10).
func defaultAsync() ofctl.SetAsync {
	all := ofctl.AllEvents()
	all.PacketIn = 0x3 // not those whose TTL ran out
	return ofctl.SetAsync{Master: all, Slave: ofctl.Async{PortStatus: all.PortStatus}}
}
