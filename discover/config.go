package discover

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
	"github.com/viasnet/vias/tap"
)

// Config is a blueprint of a Discoverer. Tables, cookies, priorities and meters are the
// host's to give, as those of bypass/ofpath are.
type Config struct {
	// Bridge is the bridge's name. Required.
	Bridge string
	// OVSDB says where the database is.
	OVSDB ovsdb.Config
	// NoDatabase takes ports from the switch's own list, and from its port-status, and learns
	// all addresses. Kinds of ports and VLANs are not known then: Exclude must name each
	// port that leads to others than one guest.
	NoDatabase bool
	// Device is the overlay's own port: workloads share its VLAN. "" = any VLAN will do.
	Device string
	// Uplink is the port to the provider's network, which is never a workload.
	Uplink string
	// Exclude are further ports that are none.
	Exclude []string
	// Skip tells of a port that the host program attaches by itself; it is asked again
	// and again, must not block, and may be called from another goroutine. nil = none.
	Skip func(port string) bool
	// Sink is told what is found. Required.
	Sink Sink
	// Holder names who else has one of the addresses, by an announcement or
	// otherwise; "" = nobody. It is asked before anything learned is attached, must not
	// block, and may be called from another goroutine. nil = nobody ever.
	Holder func(mac tap.MAC, ip netip.Addr) string
	// Dial connects to the bridge for learning. Required unless NoLearning.
	Dial func(context.Context) (ofctl.Switch, error)
	// NoLearning takes addresses from external_ids only.
	NoLearning bool
	// MaxLearned bounds the addresses learned of one port; 0 = 8, 16 at most.
	MaxLearned int
	// MaxPorts bounds the ports that are learned of at a time; 0 = 256.
	MaxPorts int

	// Table has the copies for the controller; 0 = 24.
	Table uint8
	// Priority is that of the flows in table 0, and one more; 0 = 50.
	Priority uint16
	// CookieTag is the upper 16 bits of our flows' cookies; 0 = 0x7664 ("vd").
	CookieTag uint16
	// MeterBase is the first of MaxPorts meter IDs; 0 = 30464.
	MeterBase uint32
	// Rate is how many copies a second one port may cause; 0 = 20.
	Rate uint32

	// AttachTimeout bounds one call of the Sink; 0 = 5 s.
	AttachTimeout time.Duration
	// Retry is how often what was refused is tried again; 0 = 1 s.
	Retry time.Duration
	// Logger is told what comes, goes and is refused; nil = silent.
	Logger *slog.Logger
}

const (
	tableClassify     = 0
	defaultMaxLearned = 8
)

// assume is v, or if that is zero d.
func assume[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c Config) withDefaults() Config {
	assume(&c.MaxLearned, defaultMaxLearned)
	assume(&c.MaxPorts, 256)
	assume(&c.Table, 24)
	assume(&c.Priority, 50)
	assume(&c.CookieTag, 0x7664)
	assume(&c.MeterBase, 30464)
	assume(&c.Rate, 20)
	assume(&c.AttachTimeout, 5*time.Second)
	assume(&c.Retry, time.Second)
	assume(&c.Logger, slog.New(slog.DiscardHandler))
	if c.Skip == nil {
		c.Skip = func(string) bool { return false }
	}
	if c.Holder == nil {
		c.Holder = func(tap.MAC, netip.Addr) string { return "" }
	}
	if c.OVSDB.Logger == nil {
		c.OVSDB.Logger = c.Logger
	}
	return c
}

func (c *Config) check() error {
	switch {
	case c.Bridge == "":
		return errors.New("discover: config: Bridge is missing")
	case c.Sink == nil:
		return errors.New("discover: config: Sink is missing")
	case c.NoDatabase && c.NoLearning:
		return errors.New("discover: config: with NoDatabase and NoLearning there is nothing to find addresses by")
	case c.Dial == nil && !c.NoLearning:
		return errors.New("discover: config: Dial is missing (or set NoLearning)")
	case c.MaxLearned < 0 || c.MaxLearned > maxIPs:
		return errors.New("discover: config: MaxLearned is not between 1 and 16")
	case c.MaxPorts < 0 || c.MaxPorts > 4096 || c.MeterBase > 0xffff_0000-4096:
		return errors.New("discover: config: MaxPorts is not between 1 and 4096, or MeterBase too high for it")
	case c.Table > 253:
		return errors.New("discover: config: Table must be below 254")
	case c.Priority == 0xffff:
		return errors.New("discover: config: Priority must leave room for one more")
	case c.Retry < 0 || c.AttachTimeout < 0:
		return errors.New("discover: config: a negative time")
	}
	return nil
}
