// Package nodecfg is the configuration file of examples/node, which examples/lab
// writes and examples/node reads. It is JSON and strict: a field that does not
// exist, or a value that cannot be, is refused with one line that names it.
package nodecfg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Config is a node. Required: Identity, Network, Signal, Listen, TAP.Name,
// Status. With Bridge set the node bypasses, and OpenFlow and Uplink are required
// too; without it the node is on the overlay only.
type Config struct {
	// Identity is the path of the identity file; the node creates it if it is missing.
	Identity string `json:"identity"`
	// Network names the layer-2 network; all its nodes must name it alike.
	Network string `json:"network"`
	// Membership is the folder that `node ca` made for this node: who is a member may
	// link. "" = the peers may, and nobody else.
	Membership string `json:"membership,omitempty"`
	// MembershipLists says what happens while there is no valid revocation list:
	// "require" (default): nobody is admitted; "warn": the last list counts.
	MembershipLists string `json:"membership_lists,omitempty"`
	Signal          Signal `json:"signal"`
	// Listen is the UDP address of the overlay; port 0 = any.
	Listen netip.AddrPort `json:"listen"`
	// STUN servers, "HOST:PORT", tell the overlay's address as seen from outside.
	STUN []string `json:"stun,omitempty"`
	// DTLSOnly has DTLS records carry frames too: slower, and nothing of our own. One end
	// that wants it is enough.
	DTLSOnly bool `json:"dtls_only,omitempty"`

	// Bridge is the Open vSwitch bridge; "" = no bypass.
	Bridge string `json:"bridge,omitempty"`
	// OpenFlow is the bridge's management socket, "unix:PATH" or "tcp:HOST:PORT".
	OpenFlow string `json:"openflow,omitempty"`
	// OVSDB is the database, as ovs-vsctl --db takes it; "" = its default.
	OVSDB string `json:"ovsdb,omitempty"`
	// Uplink is the interface to the provider's network, a port of the bridge.
	Uplink string `json:"uplink,omitempty"`
	// UplinkAddrDevice holds the uplink's addresses; "" = Bridge.
	UplinkAddrDevice string `json:"uplink_addr_device,omitempty"`

	TAP       TAP        `json:"tap"`
	Endpoints []Endpoint `json:"endpoints"`
	Peers     []Peer     `json:"peers"`
	Policy    Policy     `json:"policy"`
	Trust     Trust      `json:"trust"`

	// Ports is the range set aside for bypassed flows, "61440-65535" by default.
	Ports Ports `json:"ports,omitzero"`
	// Lease is how long rules forward after a node died; 0 = 30 s.
	Lease Duration `json:"lease,omitzero"`
	// Rate is how many flows a second one endpoint may begin to bypass; 0 = 500.
	Rate int `json:"rate,omitzero"`
	// OpenRate is how many connections a second one endpoint may open that come to
	// nothing; 0 = 1000, -1 = any number.
	OpenRate int `json:"open_rate,omitzero"`
	// Status is the path of the unix socket of package nodeapi.
	Status string `json:"status"`
	// Log is the least level that is logged: debug, info (default), warn or error.
	Log string `json:"log,omitempty"`
}

// TAP is the device between the overlay and the bridge.
type TAP struct {
	Name string `json:"name"`
	// MTU of the network's frames at layer 3, in bytes; 0 = 1400.
	MTU int `json:"mtu,omitempty"`
}

// Endpoint is a workload on this host.
type Endpoint struct {
	Name string `json:"name"`
	// Port is the OVS port's name; Ofport its number, 0 = ask the switch.
	Port   string  `json:"port,omitempty"`
	Ofport uint32  `json:"ofport,omitempty"`
	MAC    tap.MAC `json:"mac"`
	// IPs are its IPv4 and IPv6 addresses, but for link-local IPv6 ones.
	IPs []netip.Addr `json:"ips"`
	// Tag is a label for policies; it is no VLAN.
	Tag string `json:"tag,omitempty"`
}

// Peer is a node to link to. Without Membership it is admitted by being one.
type Peer struct {
	ID overlay.PeerID `json:"id"`
	// Name is for people; "" = the ID's beginning.
	Name string `json:"name,omitempty"`
}

// Trust is bypass.Trust.
type Trust struct {
	// Prefixes are of either family; none = private IPv4 and unique local IPv6 addresses.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	Domain   string         `json:"domain,omitempty"`
	MaxHops  int            `json:"max_hops,omitempty"`
	MaxRTT   Duration       `json:"max_rtt,omitzero"`
}

// Bypass is t in the library's type.
func (t Trust) Bypass() bypass.Trust {
	return bypass.Trust{Prefixes: t.Prefixes, Domain: t.Domain, MaxHops: t.MaxHops, MaxRTT: time.Duration(t.MaxRTT)}
}

// Load reads, checks and completes the file at path.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return c, nil
}

// Parse reads, checks and completes a configuration.
func Parse(text []byte) (*Config, error) {
	var c Config
	if err := strict(text, &c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.complete()
	return &c, nil
}

// strict decodes one JSON value without unknown fields, and says the line of a
// mistake.
func strict[T any](text []byte, v *T) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			return fmt.Errorf("line %d: %s", lineOf(text, syntax.Offset), syntax.Error())
		case errors.As(err, &kind):
			return fmt.Errorf("line %d: %q cannot be a %s", lineOf(text, kind.Offset), kind.Field, kind.Value)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("ends too early: no complete JSON object")
		}
		return oneLine(culprit[T](text), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: something follows the JSON object", lineOf(text, d.InputOffset()))
	}
	return nil
}

func lineOf(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(max(offset, 0), int64(len(text)))], []byte("\n"))
}

// culprit finds the field whose own parser refused its value: encoding/json does
// not say it.
func culprit[T any](text []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		one, err := json.Marshal(map[string]json.RawMessage{name: fields[name]})
		if err == nil && json.Unmarshal(one, new(T)) != nil {
			return name + ": "
		}
	}
	return ""
}

// oneLine keeps an error that quotes the file to one line.
func oneLine(field string, err error) error {
	text := strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "json: ")
	return errors.New(field + text)
}

// complete fills in defaults; c is valid.
func (c *Config) complete() {
	if c.Bridge != "" && c.UplinkAddrDevice == "" {
		c.UplinkAddrDevice = c.Bridge
	}
	if c.TAP.MTU == 0 {
		c.TAP.MTU = DefaultMTU
	}
	if c.Ports == (Ports{}) {
		c.Ports = Ports(bypass.DefaultPorts)
	}
	if c.Log == "" {
		c.Log = "info"
	}
	for i := range c.Peers {
		if c.Peers[i].Name == "" {
			c.Peers[i].Name = c.Peers[i].ID.Short()
		}
	}
}
