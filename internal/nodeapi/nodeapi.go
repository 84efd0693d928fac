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
	"errors"
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
	// Ready: the overlay is open, the TAP is up, and the local endpoints are
	// attached. It says nothing of peers.
	Ready bool `json:"ready"`
	// MTU of the workloads, in bytes at layer 3.
	MTU       int            `json:"mtu"`
	Endpoints []Endpoint     `json:"endpoints"`
	Peers     []Peer         `json:"peers"`
	Flows     []Flow         `json:"flows"`
	Policy    nodecfg.Policy `json:"policy"`
	Stats     Stats          `json:"stats"`
	// Membership is absent where the peers are the allow-list.
	Membership *Membership `json:"membership,omitempty"`
}

// Membership is that of the node, as an authority signed it.
type Membership struct {
	Until time.Time `json:"until"`
	// Warnings are what an operator must see to, each with what to do.
	Warnings []string `json:"warnings,omitempty"`
}

// Endpoint is a workload, local or a peer's.
type Endpoint struct {
	Name string       `json:"name,omitempty"` // local ones only
	MAC  tap.MAC      `json:"mac"`
	IPs  []netip.Addr `json:"ips"`
	// Ofport is the switch's number of its port; local ones only.
	Ofport uint32 `json:"ofport,omitempty"`
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
	// Reason says why the link is not up.
	Reason string `json:"reason,omitempty"`
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
}

// Error is the body of a refusal.
type Error struct {
	Error string `json:"error"`
}

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
		if json.Unmarshal(text, &e) == nil && e.Error != "" {
			return errors.New(e.Error)
		}
		return errors.New(res.Status)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}
