package ofctl

// Action is what a switch does to a frame: one of Output, ToGroup, SetField,
// PushVLAN, PopVLAN, DecTTL. No action at all drops the frame.
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

// PushVLAN adds an empty 802.1Q tag; set it with SetField{VLAN(vid)}.
type PushVLAN struct{}

// PopVLAN removes the outer tag.
type PopVLAN struct{}

// DecTTL decrements the IP TTL; a frame whose TTL runs out goes to the controller.
type DecTTL struct{}

func (Output) action()   {}
func (ToGroup) action()  {}
func (SetField) action() {}
func (PushVLAN) action() {}
func (PopVLAN) action()  {}
func (DecTTL) action()   {}
