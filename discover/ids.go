package discover

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/tap"
)

// identity is what external_ids say of a workload.
type identity struct {
	name string
	mac  tap.MAC
	ips  []netip.Addr
	tag  string
	bad  string // a value that cannot be read
}

// named tells whether external_ids name an endpoint at all.
func (i *identity) named() bool { return i.name != "" || !i.mac.IsZero() }

// Keys of external_ids; docs/discovery.md says who uses which.
func nameKeys() []string { return []string{"vias-name", "iface-id", "container-id", "container_id"} }
func macKeys() []string  { return []string{"vias-mac", "attached-mac", "attached_mac"} }
func tagKeys() []string  { return []string{"vias-tag"} }
func ipKeys() []string   { return []string{"vias-ips", "ip-address", "ip_addresses", "ip"} }

// maxIPs is how many addresses an endpoint may have, maxText how long its name and its tag may be.
const (
	maxIPs  = 16
	maxText = 255
)

// identify reads the external_ids of the interface, and where these say nothing, of the
// port.
func identify(p ovsdb.Port) identity {
	get := func(keys []string) string {
		for _, ids := range []map[string]string{p.Interfaces[0].ExternalIDs, p.ExternalIDs} {
			for _, k := range keys {
				if v := strings.TrimSpace(ids[k]); v != "" {
					return v
				}
			}
		}
		return ""
	}
	var id identity
	id.name = get(nameKeys())
	if face := get([]string{"container_iface"}); face != "" && id.name != "" {
		id.name += "/" + face // ovs-docker: one container may have several
	}
	if len(id.name) > maxText {
		id.bad, id.name = "the name in external_ids is longer than 255 bytes", ""
	}
	if id.tag = get(tagKeys()); len(id.tag) > maxText {
		id.bad, id.tag = "the tag in external_ids is longer than 255 bytes", ""
	}
	if text := get(macKeys()); text != "" {
		mac, err := tap.ParseMAC(strings.ToLower(text))
		if err != nil || mac.IsZero() || mac.IsMulticast() {
			id.bad = "external_ids: " + short(text) + " is no MAC address of a station"
		} else {
			id.mac = mac
		}
	}
	id.addresses(get(ipKeys()))
	return id
}

// addresses reads a list, divided by commas, blanks or semicolons, with or without
// prefix lengths, bare or in brackets.
func (i *identity) addresses(text string) {
	fields := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", ;[]\"", r) })
	for _, f := range fields {
		addr, _, _ := strings.Cut(f, "/")
		ip, err := netip.ParseAddr(addr)
		ip = ip.Unmap()
		switch {
		case err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback():
			i.bad = "external_ids: " + short(f) + " is no IP address of a station"
		case usable(ip) && !slices.Contains(i.ips, ip) && len(i.ips) < maxIPs:
			i.ips = append(i.ips, ip)
		}
	}
}

// usable tells whether ip can be a workload's alone: every station has its own link-local
// IPv6 address, and nobody says it of others.
func usable(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() && !ip.Is4In6() && ip.Zone() == "" &&
		ip != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !(ip.Is6() && ip.IsLinkLocalUnicast())
}

// short is text for a message.
func short(text string) string {
	const most = 60
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}
