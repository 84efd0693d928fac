package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/viasnet/vias"
	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/ofpath"
	"github.com/viasnet/vias/bypass/underlay"
	"github.com/viasnet/vias/discover"
	"github.com/viasnet/vias/dns"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/overlay/membership"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/tap"
)

// node is a running node.
type node struct {
	cfg     *nodecfg.Config
	id      overlay.PeerID
	member  *membership.Member // nil = the peers are the allow-list
	log     *slog.Logger
	since   time.Time
	network *vias.Network
	dns     *dns.Server // nil = names are answered nowhere
	// discovery finds endpoints; nil = they are configured.
	discovery *discover.Discoverer
	ready     atomic.Bool // see nodeapi.Status
	// datapath is the switch, once the Network has opened it; never with no bridge.
	datapath atomic.Pointer[bypass.Datapath]

	finishFrames bool // see nodeapi.Status

	// server is the node's own NATS server, once it runs.
	server atomic.Pointer[embedded.Server]

	attaching sync.Mutex // serialises what attaches and detaches endpoints

	mu      sync.Mutex // guards what follows
	policy  nodecfg.Policy
	wanted  []nodecfg.Endpoint
	ofports map[string]uint32            // of local endpoints, by name; 0 = not there
	found   map[string]discover.Endpoint // by discovery, by name
}

// runCommand runs a node until a signal or a failure.
func runCommand(ctx context.Context, args []string, _, stderr io.Writer) error {
	set := flags("run", stderr)
	path := configFlag(set)
	if err := parse(set, args, 0); err != nil {
		return err
	}
	cfg, err := load(*path)
	if err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log)); err != nil {
		return usageError{fmt.Errorf("config %s: log: %w", *path, err)}
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))

	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// From the first signal on signals have their normal effect: the second one kills.
	defer context.AfterFunc(ctx, func() {
		stop()
		log.Info("ending; a second signal ends it at once")
	})()
	return serve(ctx, cfg, log)
}

// serve is a node's life.
func serve(ctx context.Context, cfg *nodecfg.Config, log *slog.Logger) (err error) {
	if err := findUnderlay(ctx, cfg); err != nil {
		return err
	}
	identity, err := openIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	socket, err := listenStatus(cfg.Status)
	if err != nil {
		return err
	}
	defer socket.Close() // and with it goes its path
	n, err := newNode(cfg, identity.ID(), log)
	if err != nil {
		return err
	}
	signalling, err := n.signal()
	if err != nil {
		return err
	}
	directory, err := n.directory()
	if err != nil {
		return err
	}
	config := vias.Config{
		Name:      cfg.Network,
		Directory: directory,
		Identity:  identity,
		Transport: n.transport(signalling),
		Device:    n.device(ctx).Open,
		OpenRate:  cfg.OpenRate,
		Logger:    log,
	}
	if n.member != nil {
		config.Admission = n.member
	}
	if cfg.Bridge != "" {
		kernel, err := n.bypass(&config)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, kernel.Close()) }()
	}
	if n.network, err = vias.New(config); err != nil {
		return err
	}
	if err := n.openDiscovery(); err != nil {
		return err
	}
	if err := n.intend(ctx); err != nil {
		return err
	}
	if err := n.openDNS(); err != nil {
		return err
	}
	log.Info("node starts", "id", identity.ID().String(), "network", cfg.Network, "bridge", cfg.Bridge, "pid", os.Getpid())
	if err := n.work(ctx, socket); err != nil {
		return err
	}
	log.Info("node has ended")
	return nil
}

// device is the TAP, as what is behind it takes frames.
func (n *node) device(ctx context.Context) tap.LinuxConfig {
	c := tap.LinuxConfig{Name: n.cfg.TAP.Name, MTU: n.cfg.TAP.MTU, Queues: n.cfg.TAP.Queues}
	c.Join, c.JoinUDP = takesSuperFrames(ctx, n.cfg)
	n.finishFrames = !c.Join // who takes no super-frames completes no checksum either
	if n.cfg.Bridge == "" {  // so the TAP is this host's own interface
		c.SuperFrame = icedtls.SuperFrame(n.cfg.TAP.MTU)
	}
	return c
}

// newNode reads the files that cfg names: what is wrong with them is said now, and not while others
// wait.
func newNode(cfg *nodecfg.Config, id overlay.PeerID, log *slog.Logger) (n *node, err error) {
	n = &node{cfg: cfg, id: id, log: log, since: time.Now(), policy: cfg.Policy, wanted: cfg.Endpoints, ofports: map[string]uint32{}, found: map[string]discover.Endpoint{}}
	if cfg.Membership != "" {
		if n.member, err = openMember(cfg, id, log); err != nil {
			return nil, err
		}
	}
	if cfg.Signal.Embedded() {
		if _, err := n.serverConfig(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// openMember reads who is a member.
func openMember(cfg *nodecfg.Config, self overlay.PeerID, log *slog.Logger) (*membership.Member, error) {
	c := membership.Config{Network: cfg.Network, Self: self, Dir: cfg.Membership, Logger: log}
	if cfg.MembershipLists == nodecfg.ListsWarn {
		c.Lists = membership.Warn
	}
	return membership.Open(c)
}

// bypass opens the host's half of the bypass and adds the rest to config.
func (n *node) bypass(config *vias.Config) (*underlay.Underlay, error) {
	kernel, err := underlay.Open(underlay.Config{Device: n.cfg.UplinkAddrDevice, Uplink: n.cfg.Uplink, Logger: n.log})
	if err != nil {
		return nil, err
	}
	if config.Bypass, err = n.side(kernel); err != nil {
		return nil, errors.Join(err, kernel.Close())
	}
	config.Policy = n.cfg.Policy.Func()
	return kernel, nil
}

// side is the bypass's half of this machine.
func (n *node) side(kernel bypass.Underlay) (*bypass.Host, error) {
	open := ofpath.Open(n.pipeline())
	return bypass.NewHost(bypass.HostConfig{
		Datapath: func(ctx context.Context) (bypass.Datapath, error) {
			d, err := open(ctx)
			if err == nil {
				n.datapath.Store(&d)
			}
			return d, err
		},
		Underlay: kernel,
		Ports:    bypass.PortRange(n.cfg.Ports),
		Trust:    n.cfg.Trust.Bypass(),
		Lease:    time.Duration(n.cfg.Lease),
		Rate:     n.cfg.Rate,
		Logger:   n.log,
	})
}

// pipeline is how the bridges are programmed.
func (n *node) pipeline() ofpath.Config {
	p := n.cfg.Pipeline
	c := ofpath.Config{
		Dial:         func(ctx context.Context) (ofctl.Switch, error) { return n.dialSwitch(ctx, n.cfg.OpenFlow) },
		Uplink:       n.cfg.UplinkPort(),
		InboundTable: p.InboundTable, OutboundTable: p.OutboundTable, Priority: p.Priority, CookieTag: p.CookieTag,
		GroupBase: p.GroupBase, MeterBase: p.MeterBase, Mark: uint64(p.Mark),
		Logger: n.log,
	}
	if e := n.cfg.External; e != nil {
		c.External = &ofpath.External{
			Dial:   func(ctx context.Context) (ofctl.Switch, error) { return n.dialSwitch(ctx, e.OpenFlow) },
			Uplink: n.cfg.Uplink, Patch: e.Patch, Mark: uint64(e.Mark),
		}
	}
	return c
}

// dialSwitch connects to a bridge's OpenFlow socket. It does not return a *Conn,
// which would be a Switch that is not nil when it failed.
func (n *node) dialSwitch(ctx context.Context, address string) (ofctl.Switch, error) {
	c, err := ofctl.Dial(ctx, address, ofctl.Config{Logger: n.log})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// intend tells the Network its peers and endpoints. Nothing runs yet.
func (n *node) intend(ctx context.Context) error {
	for _, p := range n.cfg.Peers {
		if p.ID == n.network.ID() {
			continue // one list of all nodes may serve them all
		}
		if err := n.network.AddPeer(p.ID); err != nil {
			return err
		}
		n.log.Info("peer added", "peer", p.ID.Short(), "name", p.Name)
	}
	for _, e := range n.endpointsNow() {
		// Its port of the switch follows, when the switch is there; the overlay need
		// not wait for it.
		if err := n.network.Attach(ctx, endpoint(e, 0)); err != nil {
			return err
		}
	}
	return nil
}

// work runs all parts until ctx ends or one of them fails. The Network ends first:
// it takes down its bypasses in order, which peers, rendezvous and status outlive.
func (n *node) work(ctx context.Context, socket *statusSocket) error {
	g, netctx := errgroup.WithContext(ctx)
	rest, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	events := n.network.Events(rest)
	g.Go(func() error {
		defer end()
		return n.network.Run(netctx)
	})
	g.Go(func() error { n.logEvents(events); return nil })
	g.Go(func() error { return n.serveStatus(rest, socket) })
	g.Go(func() error { return n.attach(netctx) })
	g.Go(func() error { return n.discover(netctx) })
	if n.member != nil {
		g.Go(func() error { n.member.Run(rest); return nil })
	}
	if n.dns != nil {
		g.Go(func() error { <-rest.Done(); return n.dns.Close() })
	}
	if n.cfg.Signal.Serve.IsValid() {
		g.Go(func() error { return n.rendezvous(rest) })
	}
	return g.Wait()
}
