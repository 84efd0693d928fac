package lab

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

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
	// Machines, if not 0, makes the hosts virtual machines of so many physical ones: they are
	// dealt out to these in turn, and a bridge in each joins its own and the provider's link.
	// One site only.
	Machines int
	// LXC gives each host one container more, run by LXC as a system container. See LXCWorks.
	LXC bool
	// Datapath of all switches; "" = DatapathTSO.
	Datapath Datapath
	// Layout is that of all hosts' bridges; "" = LayoutOne.
	Layout Layout
	// Found says how nodes come by their endpoints and their uplink; "" = ByConfig.
	Found Found
	// MTU of the containers, in bytes at layer 3, up to the provider's or 1500; 0 = 1400,
	// or the provider's if that is less.
	MTU int
	// UnderlayMTU is that of the provider's network; 0 = 1500.
	UnderlayMTU int
	// MaxRTT is the longest round trip of a path that nodes prove; 0 = 50 ms.
	MaxRTT time.Duration
	// Beside keeps the overlay's datagrams out of the switches: docs/datapaths.md says why, and
	// what hosts have for it. It needs a datapath in user space.
	Beside bool
	// Far puts the second host far away; zero = as near as the others.
	Far Far
	// Root holds the directory of each lab; "" = /run/vias-lab.
	Root string
	// Logger tells each step; nil = silent.
	Logger *slog.Logger
}

// Far is what a long way does to packets, in either direction.
type Far struct {
	Delay time.Duration // half of what it adds to a round trip
	Loss  float64       // the share that it loses, packet by packet
}

// Found is how nodes come by what is local to their host.
type Found string

// Ways.
const (
	// ByConfig: each node's configuration names its endpoints and its uplink.
	ByConfig Found = "config"
	// ByIDs: no configuration names any; external_ids have the workloads' addresses, as
	// OVN-Kubernetes writes them.
	ByIDs Found = "ids"
	// ByLearning: nor do they; the workloads' own frames tell.
	ByLearning Found = "learning"
)

// Layout is which bridges a host has, and who programs them: docs/pipeline.md.
type Layout string

// Layouts.
const (
	// LayoutOne is the paper's: one bridge, with NORMAL for what is not bypassed.
	LayoutOne Layout = "one"
	// LayoutPatched has workloads on a bridge of their own, joined with the uplink's by patch ports.
	LayoutPatched Layout = "patched"
	// LayoutForeign is one bridge with a pipeline of somebody else's.
	LayoutForeign Layout = "foreign"
)

// Datapath is how the switches forward, and what of it their ports' devices do.
type Datapath string

// Datapaths.
const (
	// DatapathTSO is Open vSwitch's datapath in user space with userspace-tso-enable:
	// super-frames and partial checksums of workloads cross it whole.
	DatapathTSO Datapath = "tso"
	// DatapathPlain is the same without: what sends into it finishes its checksums and
	// cuts its segments itself (tx offload is off).
	DatapathPlain Datapath = "plain"
	// DatapathAFXDP is DatapathPlain with AF_XDP sockets for uplink and workloads.
	DatapathAFXDP Datapath = "afxdp"
	// DatapathSystem is the kernel's own; it needs the module openvswitch.
	DatapathSystem Datapath = "system"
)

// Datapaths lists those that need no kernel module.
func Datapaths() []Datapath { return []Datapath{DatapathTSO, DatapathPlain, DatapathAFXDP} }

// isUser: it runs in ovs-vswitchd.
func (d Datapath) isUser() bool { return d != DatapathSystem }

// ovsType is the bridge's datapath_type.
func (d Datapath) ovsType() string {
	if d.isUser() {
		return "netdev"
	}
	return "system"
}

// finishes: senders must finish checksums and segments, since nobody after them does.
func (d Datapath) finishes() bool { return d == DatapathPlain || d == DatapathAFXDP }

// port is what a port of the uplink or of a workload has in the database.
func (d Datapath) port() string {
	if d == DatapathAFXDP {
		return "type=afxdp options:xdp-mode=best-effort"
	}
	return ""
}

// options are the database's other_config for the switch of a host. The threads that
// poll AF_XDP ports sleep when there is little to do, and those of two hosts run on
// different cores: the hosts' other programs share these.
func (d Datapath) options(host int) []string {
	if d == DatapathAFXDP {
		return []string{"pmd-maxsleep=50", fmt.Sprintf("pmd-cpu-mask=%#x", 1<<((host-1)%runtime.NumCPU()))}
	}
	return nil
}

// The provider's network and what stands on it.
const (
	defaultMTU         = 1400
	defaultUnderlayMTU = 1500
	minMTU             = 1280 // RFC 8200
	maxMTU             = 9216
	// maxAFXDP is the longest packet that one AF_XDP buffer takes: a page without what the
	// kernel keeps at its ends. Longer frames vanish, as Open vSwitch 3.1 chains no buffers.
	maxAFXDP     = 3498
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
	if c.Datapath == "" {
		c.Datapath = DatapathTSO
	}
	if c.UnderlayMTU == 0 {
		c.UnderlayMTU = defaultUnderlayMTU
	}
	if c.MTU == 0 {
		c.MTU = min(defaultMTU, c.UnderlayMTU)
	}
	if c.MaxRTT == 0 {
		c.MaxRTT = 50 * time.Millisecond
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
	case c.Containers < 1 || c.Hosts*c.workloads() > maxWorkloads:
		return c, fmt.Errorf("%w: %d containers on each of %d hosts: want 1 or more, and %d at most in all", ErrLab, c.Containers, c.Hosts, maxWorkloads)
	case !slices.Contains(append(Datapaths(), DatapathSystem), c.Datapath):
		return c, fmt.Errorf("%w: datapath %q: want %s, %s, %s or %s", ErrLab, c.Datapath, DatapathTSO, DatapathPlain, DatapathAFXDP, DatapathSystem)
	case c.UnderlayMTU < minMTU || c.UnderlayMTU > maxMTU:
		return c, fmt.Errorf("%w: the provider's MTU %d: want %d to %d", ErrLab, c.UnderlayMTU, minMTU, maxMTU)
	case c.MTU < minMTU || c.MTU > c.mostMTU():
		return c, fmt.Errorf("%w: containers' MTU %d: want %d to %d", ErrLab, c.MTU, minMTU, c.mostMTU())
	case c.Datapath == DatapathAFXDP && max(c.MTU, c.UnderlayMTU) > maxAFXDP:
		return c, fmt.Errorf("%w: MTU %d: AF_XDP takes %d at most", ErrLab, max(c.MTU, c.UnderlayMTU), maxAFXDP)
	case c.Beside && !c.Datapath.isUser():
		return c, fmt.Errorf("%w: datapath %q takes the uplink's frames from the host: nothing goes beside it", ErrLab, c.Datapath)
	case c.Far.Delay < 0 || c.Far.Loss < 0 || c.Far.Loss >= 1:
		return c, fmt.Errorf("%w: far away is %+v: want a delay, and a share of packets below 1", ErrLab, c.Far)
	case !filepath.IsAbs(c.Root):
		return c, fmt.Errorf("%w: root %q is not absolute", ErrLab, c.Root)
	}
	if c.Machines < 0 || c.Machines > c.Hosts || c.Machines > 0 && (len(c.Sites) > 1 || c.Far != (Far{})) {
		return c, fmt.Errorf("%w: %d machines for %d hosts on %d sites: want no more than hosts, one site, and nobody far away", ErrLab, c.Machines, c.Hosts, len(c.Sites))
	}
	return c, c.checkSites()
}

// mostMTU is the most that containers may have: the provider's, but at least that of
// Ethernet, since who runs on a narrow underlay may not know it.
func (c Config) mostMTU() int { return max(c.UnderlayMTU, defaultUnderlayMTU) }

// dir is where all files of the lab are.
func (c Config) dir() string { return filepath.Join(c.Root, strings.TrimRight(c.Prefix, "-")) }

// Host is one host of the lab.
type Host struct {
	Index     int    // from 1
	Namespace string // vias-h1
	Addr      netip.Addr
	Addr6     netip.Addr // on the provider's network too; a unique local one
	MAC       tap.MAC    // of uplink and bridge alike
	Provider  string     // the namespace that has the other end of its uplink
	Machine   int        // that it is a virtual machine of, from 1; 0 = none
	Dir       string     // its files
	OVSDir    string     // Open vSwitch's run directory
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
	Addr6     netip.Addr // a unique local one
	MAC       tap.MAC
	LXC       bool // a system container; Namespace is the name of its network namespace
}

// addr is the address in the kind's family.
func (c Container) addr(k Kind) netip.Addr {
	if k.IPv6 {
		return c.Addr6
	}
	return c.Addr
}

func (h *Host) addr(k Kind) netip.Addr {
	if k.IPv6 {
		return h.Addr6
	}
	return h.Addr
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

// guests6 is the workloads' IPv6 network.
func guests6() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x77}), 64) }

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
			Addr6:     nth(c.site(nr).prefix6(), byte(nr)),
			MAC:       tap.MAC{0x02, 0x99, 0, 0, 0, byte(nr)},
			Provider:  c.site(nr).namespace,
			Dir:       dir,
			OVSDir:    filepath.Join(dir, "ovs"),
		}
		if c.Machines > 0 {
			h.Machine = i%c.Machines + 1
			h.Provider = c.machine(h.Machine)
		}
		for k := 1; k <= c.workloads(); k++ {
			n++
			name := fmt.Sprintf("h%dc%d", nr, k)
			h.Containers = append(h.Containers, Container{
				Namespace: c.Prefix + name,
				Name:      name,
				Port:      "c" + strconv.Itoa(k),
				Ofport:    ofportWorkload + uint32(k),
				Addr:      netip.AddrFrom4([4]byte{10, 77, 0, n}),
				Addr6:     nth(guests6(), n),
				MAC:       tap.MAC{0x02, 0x77, 0, 0, byte(nr), byte(k)},
				LXC:       k > c.Containers,
			})
		}
		hosts[i] = h
	}
	return hosts
}
