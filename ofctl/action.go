package ofctl

// Action is what a switch does to a frame: one of Output, ToGroup, SetField,
// SetQueue, PushVLAN, PopVLAN, DecTTL, Tether. No action at all drops the frame.
type Action interface {
	// String is the action as ovs-ofctl takes it.
	String() string
	action()
}

// Output sends the frame out of Port, a port number or a reserved one.
type Output struct {
	Port uint32
	// MaxLen is how many bytes of the frame go to the controller, for
	// PortController only; 0xffff = all of it.
	MaxLen uint16
}

// Normal hands the frame to the switch's own layer-2 forwarding.
func Normal() Action { return Output{Port: PortNormal} }

// ToController sends the first maxLen bytes to the controller; 0xffff = all.
func ToController(maxLen uint16) Action { return Output{Port: PortController, MaxLen: maxLen} }

// ToGroup hands the frame to a group.
type ToGroup struct{ ID uint32 }

// SetField sets a header field; Field must not be masked.
type SetField struct{ Field Field }

// SetQueue makes what is output later in the list go through a queue of its port.
type SetQueue struct{ ID uint32 }

// PushVLAN adds an empty 802.1Q tag; set it with SetField{VLAN(vid)}.
type PushVLAN struct{}

// PopVLAN removes the outer tag.
type PopVLAN struct{}

// DecTTL decrements the IP TTL; a frame whose TTL runs out goes to the controller.
type DecTTL struct{}

// Tether ties the life of flows to the life of the flow that it stands in: when the
// last flow with an equal Tether goes, for whatever reason, its hard time-out
// included, the switch deletes all flows of Table that have Cookie. Adding the same
// flow again before its time-out ends keeps them. So any number of flows can share
// one time-out, which one flow-mod renews.
//
// In a bundle, tethers are counted modification by modification: one that goes
// before an equal one comes cuts, also what the same bundle adds.
//
// It is Open vSwitch's learn action (NXAST_LEARN) with delete_learned and no
// flow_mod_spec, and it needs CapTether. It must stand in a flow that no packet
// reaches: executed, it installs a flow in Table that drops everything, of priority
// 32768 and with Cookie.
type Tether struct {
	// Table must not be TableAll.
	Table  uint8
	Cookie uint64
}

func (Output) action()   {}
func (ToGroup) action()  {}
func (SetField) action() {}
func (SetQueue) action() {}
func (PushVLAN) action() {}
func (PopVLAN) action()  {}
func (DecTTL) action()   {}
func (Tether) action()   {}
