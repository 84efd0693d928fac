// Package nodeapi is what examples/node tells over its status socket: JSON over
// HTTP on a unix socket that only its owner may open.
//
//	GET /v1/status   a Status
//	PUT /v1/policy   body: a nodecfg.Policy; replaces the node's policy
//	PUT /v1/endpoints/NAME      body: a nodecfg.Endpoint; attaches it, or replaces it
//	DELETE /v1/endpoints/NAME   detaches it
//
// A refusal has a status of 400 or above and an Error.
package nodeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Paths of the protocol.
const (
	StatusPath = "/v1/status"
	PolicyPath = "/v1/policy"
	// EndpointsPath is followed by an endpoint's name.
	EndpointsPath = "/v1/endpoints/"
)

// Status is a snapshot of a node.
type Status struct {
	ID      overlay.PeerID `json:"id"`
	Network string         `json:"network"`
	PID     int            `json:"pid"`
	Since   time.Time      `json:"since"` // when the node started
	// Ready: the overlay is open, the TAP is up, and the configuration's endpoints are
	// attached. It says nothing of peers, nor of endpoints that came by the socket.
	Ready bool `json:"ready"`
	// MTU of the workloads, in bytes at layer 3.
	MTU int `json:"mtu"`
	// Bridge is the Open vSwitch bridge whose ports workloads are attached at; "" = none: the
	// node is on the overlay only.
	Bridge string `json:"bridge,omitempty"`
	// FinishFrames: nothing behind a workload's port completes checksums or cuts segments, so
	// workloads have to, with the offloads of their interfaces off.
	FinishFrames bool           `json:"finish_frames,omitempty"`
	Endpoints    []Endpoint     `json:"endpoints"`
	Peers        []Peer         `json:"peers"`
	Flows        []Flow         `json:"flows"`
	Policy       nodecfg.Policy `json:"policy"`
	Stats        Stats          `json:"stats"`
	// Membership is absent where the peers are the allow-list.
	Membership *Membership `json:"membership,omitempty"`
	// Directory is absent where there is none.
	Directory *Directory `json:"directory,omitempty"`
	// DNS is where names of endpoints are answered; absent: nowhere.
	DNS netip.AddrPort `json:"dns,omitzero"`
	// Discovery is absent where it is off.
	Discovery *Discovery `json:"discovery,omitempty"`
}

// Discovery is what discovery makes of the bridge's ports.
type Discovery struct {
	Found bool             `json:"found"` // the database was read, and has the bridge
	Ports []DiscoveredPort `json:"ports"`
	// Dropped are copies of guests' frames that came too fast, Malformed those that are
	// not what they should be.
	Dropped   uint64 `json:"dropped,omitempty"`
	Malformed uint64 `json:"malformed,omitempty"`
}

// DiscoveredPort is one port of the bridge.
type DiscoveredPort struct {
	Port     string `json:"port"`
	Endpoint string `json:"endpoint,omitempty"` // the name of what is attached there
	Reason   string `json:"reason,omitempty"`   // why nothing is, or what is refused
	Learning bool   `json:"learning,omitempty"`
	// Refused are learned addresses that somebody else has, Full those beyond the bound.
	Refused uint64 `json:"refused,omitempty"`
	Full    uint64 `json:"full,omitempty"`
}

// Configured is Endpoint.Known of what a configuration or a request told.
const Configured = "configured"

// Membership is that of the node, as an authority signed it.
type Membership struct {
	Until time.Time `json:"until"`
	// Warnings are what an operator must see to, each with what to do.
	Warnings []string `json:"warnings,omitempty"`
}

// Directory is how it is with the directory of endpoints.
type Directory struct {
	// Reason is why it does not answer, since when it is so; "" = it answers.
	Reason    string    `json:"reason,omitempty"`
	Since     time.Time `json:"since"`
	Published int       `json:"published"` // endpoints of this node that it has
	Searches  int       `json:"searches"`  // addresses that are being looked for
	// Conflicts are addresses of this node's endpoints that another publishes, too.
	Conflicts []Conflict `json:"conflicts,omitempty"`
}

// Conflict is an address that two nodes claim; the holder came first.
type Conflict struct {
	Claimer overlay.PeerID `json:"claimer"`
	Holder  overlay.PeerID `json:"holder"`
	MAC     tap.MAC        `json:"mac,omitzero"`
	IP      netip.Addr     `json:"ip,omitzero"`
}

// Endpoint is a workload, local or a peer's.
type Endpoint struct {
	Name string       `json:"name,omitempty"` // local ones only
	MAC  tap.MAC      `json:"mac"`
	IPs  []netip.Addr `json:"ips"`
	// Ofport is the switch's number of its port; local ones only.
	Ofport uint32 `json:"ofport,omitempty"`
	// Tag is what policies see of it.
	Tag string `json:"tag,omitempty"`
	// Known is how a local one's addresses are known: configured, external_ids or learned.
	Known string `json:"known,omitempty"`
	// Peer is who announced it; zero = it is local.
	Peer overlay.PeerID `json:"peer,omitzero"`
}

// States of a Peer.
const (
	PeerDown       = "down"
	PeerConnecting = "connecting"
	PeerUp         = "up"
)

// Peer is a node that may be linked.
type Peer struct {
	ID    overlay.PeerID `json:"id"`
	Name  string         `json:"name"`
	State string         `json:"state"`
	// Path is the link's selected pair in words, for people.
	Path string `json:"path,omitempty"`
	// RTTMicros is the link's smoothed round trip; 0 = not known.
	RTTMicros int64 `json:"rtt_us"`
	// MTU of the link's datagrams; 0 = not known.
	MTU int `json:"mtu"`
	// Link is the link's path and what went over it; absent without one.
	Link *Link `json:"link,omitempty"`
	// Reason says why the link is not up.
	Reason string `json:"reason,omitempty"`
}

// Link is a link's path and its counters since it was made.
type Link struct {
	Kind   string         `json:"kind"` // host, reflexive or relay
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	// Epoch of the keys for frames; 0 = they travel in DTLS records.
	Epoch uint32 `json:"epoch"`
	// Paths that the link has used, this one included.
	Paths uint64 `json:"paths"`
	// MTU of the path in bytes, for one datagram of the link; Shrunk is how often it was found
	// to be less than before.
	MTU    int    `json:"mtu"`
	Shrunk uint64 `json:"shrunk"`
	// Datagrams and their bytes, as UDP carries them.
	OutDatagrams uint64 `json:"out_datagrams"`
	OutBytes     uint64 `json:"out_bytes"`
	InDatagrams  uint64 `json:"in_datagrams"`
	InBytes      uint64 `json:"in_bytes"`
	// Drops of the link, by cause; those that are 0 are absent.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// Drops names the causes of d that are not 0.
func Drops(d overlay.Drops) map[string]uint64 {
	list := map[string]uint64{}
	for name, n := range map[string]uint64{
		"truncated": d.Truncated, "foreign": d.Foreign, "unknown": d.Unknown, "epoch": d.Epoch, "replayed": d.Replayed,
		"forged": d.Forged, "plaintext": d.Plaintext, "full": d.Full, "signals": d.Signals, "too_long": d.TooLong,
		"unsent": d.Unsent,
	} {
		if n > 0 {
			list[name] = n
		}
	}
	return list
}

// States of a Flow: those of bypass.State.
const (
	FlowOverlay  = "overlay"
	FlowMoving   = "moving"
	FlowBypassed = "bypassed"
	FlowLeaving  = "leaving"
)

// Flow is one five-tuple.
type Flow struct {
	// Flow reads "tcp 10.77.0.1:40000 > 10.77.0.2:5203", the local workload first.
	Flow  string         `json:"flow"`
	Peer  overlay.PeerID `json:"peer"`
	State string         `json:"state"`
	// Reason says why it is not bypassed, Remedy what to change; both in words.
	Reason string    `json:"reason,omitempty"`
	Remedy string    `json:"remedy,omitempty"`
	Since  time.Time `json:"since"`
	// RetryAt is when a bypass is tried next; absent = as soon as the flow asks.
	RetryAt time.Time `json:"retry_at,omitzero"`
	// Local and Remote are the underlay's addresses and ports while bypassed.
	Local  netip.AddrPort `json:"local,omitzero"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	// OverlayBytes went through the overlay, RuleBytes through the switch's rules,
	// both directions.
	OverlayBytes uint64 `json:"overlay_bytes"`
	RuleBytes    uint64 `json:"rule_bytes"`
}

// Stats counts since the node started.
type Stats struct {
	// Device counts what the node read from (out) and wrote to (in) the TAP.
	DeviceOutFrames uint64 `json:"device_out_frames"`
	DeviceOutBytes  uint64 `json:"device_out_bytes"`
	DeviceInFrames  uint64 `json:"device_in_frames"`
	DeviceInBytes   uint64 `json:"device_in_bytes"`
	// Link counts datagrams of workloads' frames to and from all peers.
	LinkOutDatagrams uint64 `json:"link_out_datagrams"`
	LinkInDatagrams  uint64 `json:"link_in_datagrams"`
	// Refused counts peers that were turned away, Dropped frames and datagrams.
	Refused uint64 `json:"refused"`
	Dropped uint64 `json:"dropped"`
	// TransportDrops are those datagrams among Dropped that never became frames, or were to
	// be sent, by cause.
	TransportDrops map[string]uint64 `json:"transport_drops,omitempty"`
	// Socket is what the transport's UDP socket did, pings and what belongs to no link included.
	Socket Socket `json:"socket"`
	// Offloads and Missing are what goes through the kernel whole, and what does not (see Offloads).
	Offloads []string `json:"offloads,omitempty"`
	Missing  []string `json:"offloads_missing,omitempty"`
}

// Socket counts datagrams, and the system calls that moved them.
type Socket struct {
	OutDatagrams uint64 `json:"out_datagrams"`
	OutCalls     uint64 `json:"out_calls"`
	InDatagrams  uint64 `json:"in_datagrams"`
	InCalls      uint64 `json:"in_calls"`
}

// Offloads names what the kernel does for bulks of frames, and what it does not: super-frames of the
// TAP device ("tap-tcp", "tap-udp") and runs of datagrams that it cuts ("udp-segment") and joins ("udp-gro").
func Offloads(device tap.Caps, socket overlay.Socket) (has, missing []string) {
	for _, o := range []struct {
		name string
		has  bool
	}{
		{"tap-tcp", device.Offload}, {"tap-udp", device.Offload && device.USO},
		{"udp-segment", socket.Segmenting}, {"udp-gro", socket.Coalescing},
	} {
		if o.has {
			has = append(has, o.name)
		} else {
			missing = append(missing, o.name)
		}
	}
	return has, missing
}

// Error is the body of a refusal.
type Error struct {
	Error string `json:"error"`
}

// Refusal is an answer of a node that it will not, or cannot, as Client returns it. No answer
// at all is another error.
type Refusal struct {
	// Code is HTTP's: 400 for a request that is wrong, 404 for what there is not, 503 for
	// what cannot be done now.
	Code int
	Text string // what the node says
}

// Error is what the node says.
func (r *Refusal) Error() string { return r.Text }

// maxBody bounds what either side reads: a node with 10,000 flows says 4 MB.
const maxBody = 64 << 20

// Client asks one node. It holds no connection and needs no Close; its methods may
// be called by several goroutines.
type Client struct {
	// Socket is the path of the node's status socket.
	Socket string
}

// Status asks for a snapshot.
func (c Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	if err := c.do(ctx, http.MethodGet, StatusPath, nil, &s); err != nil {
		return nil, fmt.Errorf("node status: %w", err)
	}
	return &s, nil
}

// SetPolicy replaces the node's policy.
func (c Client) SetPolicy(ctx context.Context, p nodecfg.Policy) error {
	if err := c.do(ctx, http.MethodPut, PolicyPath, p, nil); err != nil {
		return fmt.Errorf("node policy: %w", err)
	}
	return nil
}

// Attach adds an endpoint to the node, or replaces one of that name, until the node ends.
// It returns when the node's switch has confirmed.
func (c Client) Attach(ctx context.Context, e nodecfg.Endpoint) error {
	if err := c.do(ctx, http.MethodPut, EndpointsPath+url.PathEscape(e.Name), e, nil); err != nil {
		return fmt.Errorf("node attach: %w", err)
	}
	return nil
}

// Detach takes an endpoint off the node, and returns when nothing of its flows is in the
// switch any more.
func (c Client) Detach(ctx context.Context, name string) error {
	if err := c.do(ctx, http.MethodDelete, EndpointsPath+url.PathEscape(name), nil, nil); err != nil {
		return fmt.Errorf("node detach: %w", err)
	}
	return nil
}

func (c Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return err
	}
	if res.StatusCode >= 400 {
		var e Error
		if json.Unmarshal(text, &e) != nil || e.Error == "" {
			e.Error = res.Status
		}
		return &Refusal{Code: res.StatusCode, Text: e.Error}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}
