package lab

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/viasnet/vias/tap"
)

// Config describes a lab: hosts on one provider network, each with an Open vSwitch
// and containers, all of them network namespaces of this machine.
type Config struct {
	// Prefix begins the name of every namespace; "" = "vias-". Labs with different
	// prefixes can be up at once.
	Prefix string
	// Hosts and Containers (of each host); 0 = 2 and 1.
	Hosts, Containers int
	// Sites are the links that the provider's network consists of; hosts are dealt out
	// to them in turn. nil = one, 10.99.0.0/24.
	Sites []Site
	// MTU of the containers, in bytes at layer 3; 0 = 1400. The provider's is 1500.
	MTU int
	// Root holds the directory of each lab; "" = /run/vias-lab.
	Root string
	// Logger tells each step; nil = silent.
	Logger *slog.Logger
}

// The provider's network and what stands on it.
const (
	underlayMTU  = 1500
	overlayBits  = 24
	overlayPort  = 7400 // UDP, each node
	signalPort   = 7401 // TCP, the first node
	bridge       = "br0"
	uplink       = "eth0"
	tapName      = "vias0"
	workloadTag  = 7 // the VLAN that keeps workloads from the uplink
	maxHosts     = 20
	maxWorkloads = 250
	// The switch's port numbers.
	ofportUplink   = 1
	ofportTAP      = 2
	ofportWorkload = 10 // of container 0, which there is not
)

// ErrLab: what was asked for cannot be a lab, or cannot be one here.
var ErrLab = errors.New("lab")

var validPrefix = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

func (c Config) normal() (Config, error) {
	if c.Prefix == "" {
		c.Prefix = "vias-"
	}
	if c.Hosts == 0 {
		c.Hosts = 2
	}
	if c.Containers == 0 {
		c.Containers = 1
	}
	if c.MTU == 0 {
		c.MTU = 1400
	}
	if c.Sites == nil {
		c.Sites = []Site{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 0, 0}), 24)}}
	}
	if c.Root == "" {
		c.Root = "/run/vias-lab"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case !validPrefix.MatchString(c.Prefix):
		return c, fmt.Errorf("%w: prefix %q: want lower-case letters, digits and dashes", ErrLab, c.Prefix)
	case c.Hosts < 2 || c.Hosts > maxHosts:
		return c, fmt.Errorf("%w: %d hosts: want 2 to %d", ErrLab, c.Hosts, maxHosts)
	case c.Containers < 1 || c.Hosts*c.Containers > maxWorkloads:
		return c, fmt.Errorf("%w: %d containers on each of %d hosts: want 1 or more, and %d at most in all", ErrLab, c.Containers, c.Hosts, maxWorkloads)
	case c.MTU < 576 || c.MTU > underlayMTU:
		return c, fmt.Errorf("%w: containers' MTU %d: want 576 to %d", ErrLab, c.MTU, underlayMTU)
	case !filepath.IsAbs(c.Root):
		return c, fmt.Errorf("%w: root %q is not absolute", ErrLab, c.Root)
	}
	return c, c.checkSites()
}

// dir is where all files of the lab are.
func (c Config) dir() string { return filepath.Join(c.Root, strings.TrimRight(c.Prefix, "-")) }

// Host is one host of the lab.
type Host struct {
	Index     int    // from 1
	Namespace string // vias-h1
	Addr      netip.Addr
	MAC       tap.MAC // of uplink and bridge alike
	Provider  string  // the namespace that has the other end of its uplink
	Dir       string  // its files
	OVSDir    string  // Open vSwitch's run directory
	// Containers are its workloads.
	Containers []Container
}

// Container is one workload.
type Container struct {
	Namespace string // vias-h1c1
	Name      string // h1c1
	Port      string // the host's end of its veth pair, a port of the bridge
	Ofport    uint32
	Addr      netip.Addr
	MAC       tap.MAC
}

// The files of a host's node.

// Config is the path of node.json.
func (h *Host) Config() string { return filepath.Join(h.Dir, "node.json") }

// Log is the path of what the node printed.
func (h *Host) Log() string { return filepath.Join(h.Dir, "node.log") }

// Identity is the path of the node's key.
func (h *Host) Identity() string { return filepath.Join(h.Dir, "identity.pem") }

// Status is the path of the node's status socket.
func (h *Host) Status() string { return filepath.Join(h.Dir, "status.sock") }

// plan names and numbers everything; c is normal.
func (c Config) plan() []*Host {
	hosts := make([]*Host, c.Hosts)
	n := byte(0)
	for i := range hosts {
		nr := i + 1
		dir := filepath.Join(c.dir(), "h"+strconv.Itoa(nr))
		h := &Host{
			Index:     nr,
			Namespace: fmt.Sprintf("%sh%d", c.Prefix, nr),
			Addr:      c.site(nr).host(nr),
			MAC:       tap.MAC{0x02, 0x99, 0, 0, 0, byte(nr)},
			Provider:  c.site(nr).namespace,
			Dir:       dir,
			OVSDir:    filepath.Join(dir, "ovs"),
		}
		for k := 1; k <= c.Containers; k++ {
			n++
			name := fmt.Sprintf("h%dc%d", nr, k)
			h.Containers = append(h.Containers, Container{
				Namespace: c.Prefix + name,
				Name:      name,
				Port:      "c" + strconv.Itoa(k),
				Ofport:    ofportWorkload + uint32(k),
				Addr:      netip.AddrFrom4([4]byte{10, 77, 0, n}),
				MAC:       tap.MAC{0x02, 0x77, 0, 0, byte(nr), byte(k)},
			})
		}
		hosts[i] = h
	}
	return hosts
}
