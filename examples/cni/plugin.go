package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/ofctl/ovs"
	"github.com/viasnet/vias/tap"
)

// plugin is one run of the program. What it is about is in the receiver; zero args where a verb
// has none.
type plugin struct {
	conf  *netConf
	args  *skel.CmdArgs
	node  nodeapi.Client
	links links
	out   io.Writer // for the runtime
	// ovs waits for ovs-vswitchd, ovsdb does not: what is to be deleted must also be deleted
	// while the switch is away.
	ovs, ovsdb *ovs.Client
}

// External_ids of the plugin's interfaces. The first four are what OVN, Antrea and libvirt
// write, the fifth is discovery's, for a node that is started again; the others tell ours from theirs.
const (
	idIface     = "iface-id"
	idMAC       = "attached-mac"
	idIPs       = "ip-address" // with commas between them
	idContainer = "container-id"
	idTag       = "vias-tag"
	idNetwork   = "vias-cni-network"
	idIfname    = "vias-cni-ifname"
)

// links is the kernel's side, for tests to replace.
type links interface {
	// check returns errExists where a link of that name is in the container, and
	// errNetns where there is no such namespace.
	check(netns, ifname string) error
	// plug makes a veth pair, each end where it belongs at one stroke, or leaves nothing.
	plug(p pair) error
	// configure gives the container's end its addresses and routes, and sets it up.
	configure(p pair, ips []ipConfig, routes []route) error
	// unplug deletes the pair by the host's end; one that is gone is no error.
	unplug(host string) error
	// look says what is wrong with a pair that configure finished; nil = nothing.
	look(p pair, ips []ipConfig, routes []route) error
	// hostEnds lists the veths of the host whose names begin so.
	hostEnds(prefix string) ([]string, error)
}

var (
	errExists = errors.New("there is one already")
	errNetns  = errors.New("no network namespace")
)

// pair is a veth pair.
type pair struct {
	host, netns, ifname string
	mac                 tap.MAC // of the container's end
	mtu                 int
	// finish: the container's end completes checksums and segments before it sends.
	finish bool
}

// ipConfig is an address of the container, with its network's length, and the way out; both as
// the IPAM plugin says.
type ipConfig struct {
	address netip.Prefix
	gateway netip.Addr
}

// route is one of the container's; its gateway may be missing: on the link.
type route struct {
	types.Route
	dst     netip.Prefix
	gateway netip.Addr
}

func newPlugin(args *skel.CmdArgs, l links) (*plugin, error) {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return nil, err
	}
	owner := ovs.Config{DB: conf.OVSDB, Owner: "vias-cni"}
	p := &plugin{conf: conf, args: args, links: l, out: os.Stdout, node: nodeapi.Client{Socket: conf.Socket}, ovs: ovs.New(owner)}
	owner.NoWait = true
	p.ovsdb = ovs.New(owner)
	return p, nil
}

// askNode is the node's status, or why there can be no ADD now.
func (p *plugin) askNode(ctx context.Context) (*nodeapi.Status, error) {
	s, err := p.node.Status(ctx)
	switch {
	case err != nil:
		return nil, failure(types.ErrTryAgainLater, err, "no vias node answers at "+p.conf.Socket+`; start it (examples/node), or name its status socket ("socket")`)
	case s.Bridge == "":
		return nil, failure(types.ErrInvalidNetworkConfig, nil, "the vias node has no bridge, and a container can only be plugged into one: "+
			`give the node "bridge", "openflow" and "uplink"`)
	case s.Bridge != p.conf.Bridge:
		return nil, failure(types.ErrInvalidNetworkConfig, nil, "the vias node's bridge is "+s.Bridge+", not "+p.conf.Bridge+`; put that into the network configuration ("bridge")`)
	case !s.Ready:
		return nil, failure(types.ErrTryAgainLater, nil, "the vias node is not ready; its log says what it waits for, and `node check` what it lacks")
	}
	return s, nil
}

// detach takes an endpoint off the node. One that is not there is no error.
func (p *plugin) detach(ctx context.Context, name string) error {
	err := p.node.Detach(ctx, name)
	var refusal *nodeapi.Refusal
	if errors.As(err, &refusal) && (refusal.Code == http.StatusNotFound || refusal.Code == http.StatusConflict) {
		return nil // what the node found it detaches when the port has gone
	}
	return err
}

// sweep detaches the network's endpoints that have no port: those that a DEL could not tell the
// node of. s must be older than ports: whoever attaches has a port first, and whoever detaches
// still has it.
func (p *plugin) sweep(ctx context.Context, s *nodeapi.Status, ports map[string]attachment) error {
	var errs []error
	for _, name := range p.endpoints(s) {
		if _, there := ports[name]; !there {
			errs = append(errs, p.detach(ctx, name))
		}
	}
	return errors.Join(errs...)
}

// endpoints are the names of this network's endpoints at the node.
func (p *plugin) endpoints(s *nodeapi.Status) (names []string) {
	for _, e := range s.Endpoints {
		if e.Peer.IsZero() && len(e.Name) == nameLength && e.Name[:prefixLength] == prefix(p.conf.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

const (
	prefixLength = 6
	nameLength   = 15
)

// ports are this network's ports of the switch, by name.
func (p *plugin) ports(ctx context.Context) (map[string]attachment, error) {
	list, err := p.ovsdb.Interfaces(ctx, map[string]string{idNetwork: p.conf.Name})
	if err != nil {
		return nil, failure(types.ErrTryAgainLater, err, `Open vSwitch's database does not answer; start ovsdb-server, or name its address ("ovsdb")`)
	}
	ports := map[string]attachment{}
	for _, i := range list {
		ports[i.Name] = attachment{p.conf.Name, i.ExternalIDs[idContainer], i.ExternalIDs[idIfname]}
	}
	return ports, nil
}
