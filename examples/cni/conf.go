package main

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// netConf is the plugin's configuration. Required: Bridge.
type netConf struct {
	types.PluginConf
	// Bridge is the node's Open vSwitch bridge.
	Bridge string `json:"bridge"`
	// Socket is the node's status socket; "" = /run/vias/NAME.sock, with the CNI network's name.
	Socket string `json:"socket"`
	// OVSDB is the database's address, as ovs-vsctl --db takes it; "" = its default.
	OVSDB string `json:"ovsdb"`
	// VLAN makes containers' ports access ports of it, which keeps them from the uplink also
	// while the switch has no flows; 0 = none.
	VLAN uint16 `json:"vlan"`
	// Tag is the label that policies see of the containers.
	Tag string `json:"tag"`
	// MTU of containers' interfaces, in bytes at layer 3; 0 = the node's.
	MTU int `json:"mtu"`
	// NoTxOffload has containers finish checksums and cut segments themselves, as they do anyway
	// where the node says that its switch does not (nodeapi.Status.FinishFrames).
	NoTxOffload bool `json:"no_tx_offload"`
	// RuntimeConfig is what the runtime says by the capability "mac".
	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`

	// Attachments is the name that version 1.1 of the spec had for ValidAttachments first.
	Attachments []types.GCAttachment `json:"cni.dev/attachments"`
}

const (
	maxVLAN = 4094
	minMTU  = 576   // RFC 791: every host takes that
	maxMTU  = 65535 // of a veth
)

func parseConf(text []byte) (*netConf, error) {
	var c netConf
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, failure(types.ErrDecodingFailure, err, "the network configuration is not what this plugin takes; docs/cni.md has an example")
	}
	if c.Socket == "" {
		c.Socket = nodecfg.DefaultRun + "/" + c.Name + ".sock"
	}
	bad := func(text string) error { return failure(types.ErrInvalidNetworkConfig, nil, text) }
	switch {
	case c.Bridge == "":
		return nil, bad(`bridge: none given; name the node's Open vSwitch bridge, "bridge": "br0"`)
	case c.VLAN > maxVLAN:
		return nil, bad(fmt.Sprintf("vlan: %d is not between 1 and %d", c.VLAN, maxVLAN))
	case c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU):
		return nil, bad(fmt.Sprintf("mtu: %d is not between %d and %d; leave it out for the node's", c.MTU, minMTU, maxMTU))
	}
	return &c, nil
}

// previous is prevResult; nil = there is none. DEL does not ask: it must not fail for its sake.
func (c *netConf) previous() (*types100.Result, error) {
	err := version.ParsePrevResult(&c.PluginConf)
	if err == nil && c.PrevResult == nil {
		return nil, nil
	}
	var r *types100.Result
	if err == nil {
		r, err = types100.NewResultFromResult(c.PrevResult)
	}
	if err != nil {
		return nil, failure(types.ErrDecodingFailure, err, "prevResult: not a result of the configuration's cniVersion")
	}
	return r, nil
}

// attachment is one interface of one container on one network, and the names that follow from
// it: DEL and GC find again by them what an ADD made, however far that got.
type attachment struct {
	network, container, ifname string
}

// name is that of the host's end of the veth pair, of its port of the bridge (and so iface-id),
// and of the node's endpoint: 15 letters, which is what a Linux interface can have.
func (a attachment) name() string {
	return prefix(a.network) + digest(9, a.network, a.container, a.ifname)
}

// prefix begins the names of a network's attachments.
func prefix(network string) string { return "vc" + digest(4, network) }

// digest is n letters of a hash, at five bits each.
func digest(n int, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00"))) // no part can have a 0: they are names
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:n]
}

// ownMAC is the container's where nobody names one: the same whenever it is asked for, and
// another one on each node, where a container of that name may be too.
func (a attachment) ownMAC(node overlay.PeerID) tap.MAC {
	sum := sha256.Sum256([]byte(strings.Join([]string{node.String(), a.network, a.container, a.ifname}, "\x00")))
	m := tap.MAC(sum[:6])
	m[0] = m[0]&^1 | 2 // a station's, locally administered
	return m
}

// wantedMAC is the one that the runtime asks for, by the capability or by CNI_ARGS' MAC; zero =
// it asks for none.
func (c *netConf) wantedMAC(args string) (tap.MAC, error) {
	var extra struct {
		types.CommonArgs
		MAC types.UnmarshallableString
	}
	extra.IgnoreUnknown = true
	if args != "" {
		if err := types.LoadArgs(args, &extra); err != nil {
			return tap.MAC{}, failure(types.ErrInvalidEnvironmentVariables, err, "CNI_ARGS: want KEY=VALUE;KEY=VALUE")
		}
	}
	text := c.RuntimeConfig.MAC
	if text == "" {
		text = string(extra.MAC)
	}
	if text == "" {
		return tap.MAC{}, nil
	}
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 || tap.MAC(hw).IsZero() || tap.MAC(hw).IsMulticast() {
		return tap.MAC{}, failure(types.ErrInvalidEnvironmentVariables, err,
			fmt.Sprintf("the MAC %q that the runtime asks for (runtimeConfig.mac or CNI_ARGS) is no station's; ask for another, or for none", text))
	}
	return tap.MAC(hw), nil
}

// valid are the names of the attachments that GC has to leave.
func (c *netConf) valid() map[string]bool {
	names := map[string]bool{}
	for _, list := range [][]types.GCAttachment{c.ValidAttachments, c.Attachments} {
		for _, a := range list {
			names[attachment{c.Name, a.ContainerID, a.IfName}.name()] = true
		}
	}
	return names
}

// attachmentOf is what the runtime speaks of.
func attachmentOf(c *netConf, args *skel.CmdArgs) attachment {
	return attachment{network: c.Name, container: args.ContainerID, ifname: args.IfName}
}
