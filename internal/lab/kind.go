package lab

// Kind is a kind of traffic: a protocol over a family. The zero Kind is TCP over IPv4.
type Kind struct{ UDP, IPv6 bool }

// Kinds lists all of them.
func Kinds() []Kind { return []Kind{{}, {IPv6: true}, {UDP: true}, {UDP: true, IPv6: true}} }

// String reads "udp/v6".
func (k Kind) String() string { return k.proto() + map[bool]string{false: "/v4", true: "/v6"}[k.IPv6] }

func (k Kind) proto() string {
	if k.UDP {
		return "udp"
	}
	return "tcp"
}

// word is what begins a match of OpenFlow 1.3 in text, and field what it calls an address.
func (k Kind) word() string {
	if k.IPv6 {
		return k.proto() + "6"
	}
	return k.proto()
}

func (k Kind) field(direction string) string {
	if k.IPv6 {
		return "ipv6_" + direction
	}
	return "nw_" + direction
}

// set is the same in set_field.
func (k Kind) set(direction string) string {
	if k.IPv6 {
		return "ipv6_" + direction
	}
	return "ip_" + direction
}

// network is the name of the kind's sockets in package net.
func (k Kind) network() string {
	if k.IPv6 {
		return k.proto() + "6"
	}
	return k.proto() + "4"
}
