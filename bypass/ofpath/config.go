package ofpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/ofctl"
)

// Config says which switch to program and what of it is ours. Tables, cookies,
// priorities, group and meter IDs are the host's to give: nothing else in the switch is
// read, changed or relied on, but NORMAL forwarding, or the pipeline that Mark hands back to.
type Config struct {
	// Dial connects to the switch. It is called again whenever the connection is
	// lost; it must honour ctx. Required.
	Dial func(ctx context.Context) (ofctl.Switch, error)
	// Uplink is the port that leads to the provider's network: its name, or its
	// OpenFlow port number. A name is looked up again whenever ports change. Required.
	Uplink string
	// External is set where the provider's network and the host's own address are on another
	// bridge: Uplink is then the patch port that leads there.
	External *External
	// Mark says that the bridge has a pipeline of somebody else's, which begins at table 0: frames
	// that are not bypassed go through table 0 again, with these bits of metadata set, and none of our
	// flows takes them then. It may be any that the foreign pipeline does not match on where it
	// begins. 0 = what is not bypassed is forwarded by NORMAL.
	Mark uint64
	// InboundTable and OutboundTable hold the exact rules; the three tables after OutboundTable hold the
	// outbound gates, the tethers, and, with Mark, what is handed back. 0 = 10 and 20.
	InboundTable, OutboundTable uint8
	// Priority is that of the gates in table 0; the guard and what looks at ICMP errors
	// are 10 below, listen rules are 10 above. 0 = 300; 11 at least. The host's own flows
	// in table 0 that must come first have higher ones.
	Priority uint16
	// CookieTag is the upper 16 bits of the cookie of all our flows; 0 = 0x7661
	// ("va"). Two programs on one switch need two.
	CookieTag uint16
	// GroupBase is the first of 65,536 group IDs that are ours; 0 = 0x76610000.
	GroupBase uint32
	// MeterBase is the first of three meter IDs that are ours, if the switch has meters;
	// 0 = 0x7661.
	MeterBase uint32
	// RetryMin and RetryMax bound the wait between attempts to connect; 0 = 100 ms
	// and 5 s.
	RetryMin, RetryMax time.Duration
	// Logger is told about connections and refusals; nil = silent.
	Logger *slog.Logger

	patch string // of an external bridge: the port that leads to the workloads'
}

// outer is how the external bridge is programmed.
func (c Config) outer() Config {
	c.Dial, c.Uplink, c.Mark, c.patch, c.External = c.External.Dial, c.External.Uplink, c.External.Mark, c.External.Patch, nil
	return c
}

// External is the bridge of the uplink, where workloads are on another one (Open vSwitch's integration
// and external bridges, joined by patch ports). What comes from peers to the reserved ports is steered
// over the patch port, with the same care that keeps it from the host's stack on a single bridge, and what we
// send leaves by the uplink without being learned from; all else is left to what the bridge does.
type External struct {
	// Dial connects to the bridge, as Config.Dial does to the other one. Required.
	Dial func(ctx context.Context) (ofctl.Switch, error)
	// Uplink and Patch are the ports that lead to the provider's network and to the
	// workloads' bridge, as Config.Uplink. Required.
	Uplink, Patch string
	// Mark is that of this bridge, as Config.Mark.
	Mark uint64
}

const (
	tableClassify = 0
	groupCount    = 1 << 16
	// listenAbove and guardBelow are the distances from Config.Priority.
	listenAbove = 10
	guardBelow  = 10
	exact       = 100 // priority of exact rules and outbound gates
	errorCopy   = 50  // of what sends ICMP errors up, in the inbound table
)

func (c Config) withDefaults() Config {
	set := func(v *uint8, d uint8) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.InboundTable, 10)
	set(&c.OutboundTable, 20)
	if c.Priority == 0 {
		c.Priority = 300
	}
	if c.CookieTag == 0 {
		c.CookieTag = 0x7661
	}
	if c.GroupBase == 0 {
		c.GroupBase = 0x7661_0000
	}
	if c.MeterBase == 0 {
		c.MeterBase = 0x7661
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 100 * time.Millisecond
	}
	if c.RetryMax < c.RetryMin {
		c.RetryMax = max(5*time.Second, c.RetryMin)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Dial == nil:
		return errors.New("ofpath: config: Dial is missing")
	case c.Uplink == "":
		return errors.New("ofpath: config: Uplink is missing")
	case c.External != nil && (c.External.Dial == nil || c.External.Uplink == "" || c.External.Patch == ""):
		return errors.New("ofpath: config: External lacks Dial, Uplink or Patch")
	case c.InboundTable >= 254 || c.OutboundTable >= 251:
		return errors.New("ofpath: config: tables must be below 254, the outbound one below 251")
	case c.InboundTable >= c.OutboundTable && c.InboundTable <= c.restTable():
		return fmt.Errorf("ofpath: config: InboundTable %d is one of the outbound tables %d to %d",
			c.InboundTable, c.OutboundTable, c.restTable())
	case c.Priority <= guardBelow || c.Priority > 0xffff-listenAbove:
		return fmt.Errorf("ofpath: config: priority %d leaves no room for guard and listen rules", c.Priority)
	case c.MeterBase > 0xffff_0000-meterCount: // where OpenFlow's numbers end
		return fmt.Errorf("ofpath: config: there are no %d meter IDs from %#x on", meterCount, c.MeterBase)
	case c.GroupBase > 0xffff_ff00-groupCount:
		return fmt.Errorf("ofpath: config: there are no %d group IDs from %#x on", groupCount, c.GroupBase)
	}
	return nil
}

// Open makes the function that bypass.HostConfig.Datapath wants. A switch that
// cannot be reached is no error of that function: the Datapath tries again until it
// is closed, and reports DatapathUp when it is there. A switch that lacks what
// bypassing needs is an error, which is ofctl.ErrNotSupported and names what is
// missing.
func Open(cfg Config) func(context.Context) (bypass.Datapath, error) {
	return func(ctx context.Context) (bypass.Datapath, error) {
		cfg := cfg.withDefaults()
		if err := cfg.check(); err != nil {
			return nil, err
		}
		d, err := begin(ctx, cfg)
		if err != nil {
			return nil, err
		}
		if cfg.External == nil {
			return d, nil
		}
		outer, err := begin(ctx, cfg.outer())
		if err != nil {
			_ = d.Close() // nothing was done on it
			return nil, fmt.Errorf("external bridge: %w", err)
		}
		return &bridges{datapath: d, outer: outer}, nil
	}
}

// begin connects, and keeps the connection from then on.
func begin(ctx context.Context, cfg Config) (*datapath, error) {
	d := newDatapath(cfg)
	sw, err := d.dial(ctx)
	if errors.Is(err, ofctl.ErrNotSupported) || ctx.Err() != nil {
		d.cancel()
		return nil, errors.Join(err, ctx.Err())
	}
	go d.run(sw, err)
	return d, nil
}

// dial connects and checks that the switch can do what we need.
func (d *datapath) dial(ctx context.Context) (ofctl.Switch, error) {
	sw, err := d.cfg.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("ofpath: connecting to the switch: %w", err)
	}
	if err := lacks(sw.Features()); err != nil {
		_ = sw.Close() // nothing was done on it
		return nil, err
	}
	return sw, nil
}

// lacks names what the switch cannot do.
func lacks(f ofctl.Features) error {
	needs := []struct {
		c    ofctl.Capabilities
		what string
	}{
		{ofctl.CapBundle, "atomic bundles (ONF EXT-230)"},
		{ofctl.CapFragMatch, "matching on fragments (nw_frag)"},
		{ofctl.CapPortMask, "masked transport ports"},
		{ofctl.CapTether, "learn with delete_learned (Open vSwitch's)"},
	}
	var err error
	for _, n := range needs {
		if !f.Capabilities.Has(n.c) {
			err = errors.Join(err, fmt.Errorf("ofpath: the switch lacks %s, so it cannot bypass: %w", n.what, ofctl.ErrNotSupported))
		}
	}
	return err
}
