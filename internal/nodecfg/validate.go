package nodecfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Bounds and defaults of fields.
const (
	DefaultMTU = 1400
	DefaultTAP = "vias0"
	DefaultRun = "/run/vias" // the folder of status sockets
	minMTU     = 576         // RFC 791: every host takes that
	maxMTU     = 65535
	maxName    = 15  // IFNAMSIZ - 1
	maxPath    = 107 // of a unix socket
	minLease   = 10 * time.Second
	maxRate    = 1_000_000
)

// Values of Config.MembershipLists.
const (
	ListsRequire = "require"
	ListsWarn    = "warn"
)

// Validate returns the first thing that is wrong with c, in one line.
func (c *Config) Validate() error {
	for _, check := range []func() error{
		c.checkRequired, c.Signal.check, c.checkBypass, c.checkOwnPorts, c.checkTAP, c.checkEndpoints, c.checkPeers,
		c.Policy.Validate, c.checkTrust,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkRequired() error {
	switch {
	case c.Identity == "":
		return errors.New("identity: no path given")
	case c.Network == "":
		return errors.New("network: no name given")
	case !c.Listen.IsValid():
		return errors.New("listen: no ADDRESS:PORT given")
	case c.Status == "":
		return errors.New("status: no path given")
	case len(c.Status) > maxPath:
		return fmt.Errorf("status: a unix socket's path has at most %d bytes, this has %d", maxPath, len(c.Status))
	}
	switch c.MembershipLists {
	case "", ListsRequire, ListsWarn:
	default:
		return fmt.Errorf("membership_lists: %q is none of %s, %s", c.MembershipLists, ListsRequire, ListsWarn)
	}
	if c.Membership == "" && c.MembershipLists != "" {
		return errors.New("membership_lists: there is no membership: name the folder, or leave both out")
	}
	for _, s := range c.STUN {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return fmt.Errorf("stun: %q is no HOST:PORT", s)
		}
	}
	for _, r := range c.Relays {
		switch static := r.Username != "" && r.Password != ""; {
		case !strings.HasPrefix(r.URL, "turn:") && !strings.HasPrefix(r.URL, "turns:"):
			return fmt.Errorf("relays: %q is neither turn:HOST:PORT nor turns:HOST:PORT", r.URL)
		case static == (r.Secret != "") || !static && r.Password != "":
			return fmt.Errorf("relays: %s: want username and password, or secret", r.URL)
		}
	}
	switch strings.ToLower(c.Log) {
	case "", "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log: %q is none of debug, info, warn, error", c.Log)
}

func (c *Config) checkBypass() error {
	switch {
	case c.Lease != 0 && (time.Duration(c.Lease) < minLease || time.Duration(c.Lease)%time.Second != 0):
		return fmt.Errorf("lease: want whole seconds, %v at least", minLease)
	case c.Rate < 0 || c.Rate > maxRate:
		return fmt.Errorf("rate: want 1 to %d flows a second", maxRate)
	case c.OpenRate < -1 || c.OpenRate > maxRate:
		return fmt.Errorf("open_rate: want 1 to %d connections a second, or -1", maxRate)
	case c.Bridge == "" && c.Discover != nil && *c.Discover:
		return errors.New("discover: there is no bridge to find workloads at")
	case c.Bridge == "" && (c.OpenFlow != "" || c.Uplink != "" || c.UplinkAddrDevice != "" || c.OVSDB != ""):
		return errors.New("bridge: none given, but openflow, ovsdb, uplink or uplink_addr_device is")
	case c.Bridge == "":
		return c.checkExternal()
	case c.OpenFlow == "" && c.OVSDB != "" && !strings.HasPrefix(c.OVSDB, "unix:"):
		return errors.New("openflow: none given, and ovsdb is no unix:PATH beside which it could be")
	case c.OpenFlow != "" && !strings.HasPrefix(c.OpenFlow, "unix:") && !strings.HasPrefix(c.OpenFlow, "tcp:"):
		return fmt.Errorf("openflow: %q is neither unix:PATH nor tcp:HOST:PORT", c.OpenFlow)
	case c.OVSDB == NoOVSDB && c.Uplink == "":
		return errors.New("uplink: without ovsdb it is not found: give it")
	case c.OVSDB == NoOVSDB && c.Discovery.NoLearning && c.Discovers():
		return errors.New("discovery.no_learning: without ovsdb there is nothing else to find addresses by")
	case c.Uplink == "" && c.UplinkAddrDevice != "":
		return errors.New("uplink: none given, but uplink_addr_device is: give both, or leave both to be found")
	}
	for field, name := range map[string]string{"bridge": c.Bridge, "uplink": c.Uplink, "uplink_addr_device": c.UplinkAddrDevice} {
		if len(name) > maxName {
			return fmt.Errorf("%s: %q is longer than an interface's name can be", field, name)
		}
	}
	return c.checkExternal()
}

// checkOwnPorts: what peers send to a reserved port never reaches a socket of this host.
func (c *Config) checkOwnPorts() error {
	r := bypass.PortRange(c.Ports)
	if r == (bypass.PortRange{}) {
		r = bypass.DefaultPorts
	}
	var cluster netip.AddrPort
	if c.Signal.Cluster != nil {
		cluster = c.Signal.Cluster.Listen
	}
	for _, own := range []struct {
		field string
		at    netip.AddrPort
	}{{"listen", c.Listen}, {"signal.serve", c.Signal.Serve}, {"signal.cluster.listen", cluster}, {"dns", c.DNS}} {
		if c.Bridge != "" && own.at.IsValid() && r.Contains(own.at.Port()) {
			return fmt.Errorf("%s: port %d is one of those set aside for bypassed flows (%d-%d)", own.field, own.at.Port(), r.First(), r.Last())
		}
	}
	return nil
}

func (c *Config) checkTAP() error {
	switch {
	case c.TAP.Name == "":
		return errors.New("tap.name: none given")
	case len(c.TAP.Name) > maxName || strings.ContainsAny(c.TAP.Name, "/ \t\n"):
		return fmt.Errorf("tap.name: %q cannot be an interface's name", c.TAP.Name)
	case c.TAP.MTU != 0 && (c.TAP.MTU < minMTU || c.TAP.MTU > maxMTU):
		return fmt.Errorf("tap.mtu: %d is not between %d and %d", c.TAP.MTU, minMTU, maxMTU)
	case c.TAP.Queues < 0 || c.TAP.Queues > tap.MaxQueues:
		return fmt.Errorf("tap.queues: %d is not between 1 and %d", c.TAP.Queues, tap.MaxQueues)
	}
	return nil
}

func (c *Config) checkEndpoints() error {
	names, macs, ips := map[string]bool{}, map[tap.MAC]bool{}, map[string]bool{}
	for i, e := range c.Endpoints {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("endpoints: number %d (%q): "+format, append([]any{i + 1, e.Name}, args...)...)
		}
		switch {
		case e.Name == "":
			return bad("no name given")
		case names[e.Name]:
			return bad("the name is there twice")
		case e.MAC.IsZero() || e.MAC.IsMulticast():
			return bad("mac: %v is no station's address", e.MAC)
		case macs[e.MAC]:
			return bad("mac: %v is there twice", e.MAC)
		case c.Bridge != "" && e.Port == "" && e.Ofport == 0:
			return bad("neither port nor ofport given")
		}
		names[e.Name], macs[e.MAC] = true, true
		for _, ip := range e.IPs {
			switch {
			case !workload(ip):
				return bad("ips: %v is no workload's address", ip)
			case ips[ip.String()]:
				return bad("ips: %v is there twice", ip)
			}
			ips[ip.String()] = true
		}
	}
	return nil
}

// workload tells whether ip can be a workload's alone: every station has its own link-local
// IPv6 address, and nobody says it of others.
func workload(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() && !ip.Is4In6() &&
		!(ip.Is6() && ip.IsLinkLocalUnicast())
}

func (c *Config) checkPeers() error {
	seen := map[overlay.PeerID]bool{}
	for i, p := range c.Peers {
		switch {
		case p.ID.IsZero():
			return fmt.Errorf("peers: number %d (%q): no id given", i+1, p.Name)
		case seen[p.ID]:
			return fmt.Errorf("peers: number %d (%q): the id is there twice", i+1, p.Name)
		}
		seen[p.ID] = true
	}
	return nil
}

func (c *Config) checkTrust() error {
	for _, p := range c.Trust.Prefixes {
		if !p.IsValid() || p.Masked() != p || p.Addr().Is4In6() {
			return fmt.Errorf("trust.prefixes: %v is no prefix, or has bits behind its length", p)
		}
	}
	if c.Trust.MaxHops < 0 || c.Trust.MaxHops > 254 {
		return fmt.Errorf("trust.max_hops: %d is not between 0 and 254", c.Trust.MaxHops)
	}
	return nil
}
