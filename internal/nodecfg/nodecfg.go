// Package nodecfg is the configuration file of examples/node, which examples/lab
// writes and examples/node reads. It is JSON and strict: a field that does not
// exist, or a value that cannot be, is refused with one line that names it.
package nodecfg

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Config is a node. Required: Identity and Network, and Membership or Peers, without which nobody
// may link. Four lines make a node that joins a network:
//
//	{
//	  "identity": "/var/lib/vias/identity.pem",
//	  "network": "blue",
//	  "signal": "nats://10.99.0.1:4222",
//	  "membership": "/var/lib/vias/blue"
//	}
//
// With Bridge set the node bypasses; without it the node is on the overlay only.
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
	// Signal says how nodes find each other. Default: this node is the rendezvous.
	Signal Signal `json:"signal,omitzero"`
	// NoDirectory leaves endpoints out of the directory that nodes have where they signal over
	// NATS: then a node links to Peers only, and to all of them.
	NoDirectory bool `json:"no_directory,omitempty"`
	// Listen is the UDP address of the overlay; port 0 = any. Default: 0.0.0.0:0, every address of
	// this host, also when they change.
	Listen netip.AddrPort `json:"listen,omitzero"`
	// STUN servers, "HOST:PORT", tell the overlay's address as seen from outside.
	STUN []string `json:"stun,omitempty"`
	// Relays are TURN servers, for peers to which no direct path works.
	Relays []Relay `json:"relays,omitempty"`
	// DTLSOnly has DTLS records carry frames too: slower, and nothing of our own. One end
	// that wants it is enough.
	DTLSOnly bool `json:"dtls_only,omitempty"`

	// Bridge is the Open vSwitch bridge; "" = no bypass.
	Bridge string `json:"bridge,omitempty"`
	// OpenFlow is the bridge's management socket, "unix:PATH" or "tcp:HOST:PORT". Default:
	// Bridge.mgmt beside OVSDB's socket.
	OpenFlow string `json:"openflow,omitempty"`
	// OVSDB is the database, as ovs-vsctl --db takes it; "" = its default; "none": what is found comes from
	// the switch itself.
	OVSDB string `json:"ovsdb,omitempty"`
	// Discover attaches workloads that appear on the bridge by themselves. Default: where
	// there is a bridge and Endpoints are none.
	Discover *bool `json:"discover,omitempty"`
	// Discovery is how.
	Discovery Discovery `json:"discovery,omitzero"`
	// Uplink is the interface to the provider's network, a port of the bridge. Default: it
	// is found, and UplinkAddrDevice with it.
	Uplink string `json:"uplink,omitempty"`
	// UplinkAddrDevice holds the uplink's addresses; "" = Bridge, or External's.
	UplinkAddrDevice string `json:"uplink_addr_device,omitempty"`
	// External is set where Uplink is a port of another bridge than the workloads.
	External *External `json:"external,omitempty"`
	// Pipeline is what of the bridge is ours.
	Pipeline Pipeline `json:"pipeline,omitzero"`

	TAP       TAP        `json:"tap,omitzero"`
	Endpoints []Endpoint `json:"endpoints"`
	Peers     []Peer     `json:"peers"`
	Policy    Policy     `json:"policy"`
	Trust     Trust      `json:"trust"`

	// DNS is where this node answers for endpoints' names, NAME.NETWORK., over UDP and TCP:
	// an address that workloads reach. "" = nowhere.
	DNS netip.AddrPort `json:"dns,omitzero"`
	// Ports is the range set aside for bypassed flows, "61440-65535" by default.
	Ports Ports `json:"ports,omitzero"`
	// Lease is how long rules forward after a node died; 0 = 30 s.
	Lease Duration `json:"lease,omitzero"`
	// Rate is how many flows a second one endpoint may begin to bypass; 0 = 500.
	Rate int `json:"rate,omitzero"`
	// OpenRate is how many connections a second one endpoint may open that come to
	// nothing; 0 = 1000, -1 = any number.
	OpenRate int `json:"open_rate,omitzero"`
	// Status is the path of the unix socket of package nodeapi. Default:
	// /run/vias/NETWORK.sock.
	Status string `json:"status"`
	// Log is the least level that is logged: debug, info (default), warn or error.
	Log string `json:"log,omitempty"`
}

// NoOVSDB is Config.OVSDB's "none".
const NoOVSDB = "none"

// Discovery is what of discovery can be chosen.
type Discovery struct {
	// Exclude are ports of the bridge that are no workloads.
	Exclude []string `json:"exclude,omitempty"`
	// NoLearning takes addresses from external_ids only.
	NoLearning bool `json:"no_learning,omitempty"`
}

// Relay is a TURN server, with a user name and a password, or with a secret that it shares with
// the nodes (coturn's static-auth-secret): then credentials are made anew for each use.
type Relay struct {
	// URL is "turn:HOST:PORT", "turn:HOST:PORT?transport=tcp" or "turns:HOST:PORT".
	URL      string `json:"url"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Secret   string `json:"secret,omitempty"`
	// Lasting is how long credentials of Secret are good; 0 = 1 h.
	Lasting Duration `json:"lasting,omitzero"`
}

// TAP is the device between the overlay and the bridge.
type TAP struct {
	// Name of the interface. Default vias0.
	Name string `json:"name"`
	// MTU of the network's frames at layer 3, in bytes; 0 = 1400.
	MTU int `json:"mtu,omitempty"`
	// Queues of the TAP (tap.LinuxConfig.Queues); 0 = 1.
	Queues int `json:"queues,omitempty"`
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
	c.assume()
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

// assume fills in what every node needs and need not be said.
func (c *Config) assume() {
	if c.Signal.none() {
		c.Signal.Serve = DefaultServe
	}
	if !c.Listen.IsValid() {
		c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	if c.TAP.Name == "" {
		c.TAP.Name = DefaultTAP
	}
	if c.Status == "" && c.Network != "" {
		c.Status = filepath.Join(DefaultRun, url.PathEscape(c.Network)+".sock")
	}
}

// Discovers tells whether endpoints are found.
func (c *Config) Discovers() bool {
	if c.Discover != nil {
		return *c.Discover
	}
	return c.Bridge != "" && len(c.Endpoints) == 0
}

// complete fills in other defaults; c is valid.
func (c *Config) complete() {
	if c.Bridge != "" && c.OpenFlow == "" {
		c.OpenFlow = "unix:" + filepath.Join(filepath.Dir(strings.TrimPrefix(cmp.Or(c.OVSDB, ovsdb.DefaultAddress), "unix:")), c.Bridge+".mgmt")
	}
	c.completeExternal()
	if c.Bridge != "" && c.Uplink != "" && c.UplinkAddrDevice == "" {
		c.UplinkAddrDevice = c.Bridge
		if c.External != nil {
			c.UplinkAddrDevice = c.External.Bridge
		}
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
