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
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/membership"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
	"github.com/viasnet/vias/tap"
)

// node is a running node.
type node struct {
	cfg     *nodecfg.Config
	member  *membership.Member // nil = the peers are the allow-list
	log     *slog.Logger
	since   time.Time
	network *vias.Network
	ready   atomic.Bool // see nodeapi.Status
	// datapath is the switch, once the Network has opened it; never with no bridge.
	datapath atomic.Pointer[bypass.Datapath]

	// server is the node's own NATS server, once it runs.
	server atomic.Pointer[embedded.Server]

	attaching sync.Mutex // serialises what attaches and detaches endpoints

	mu      sync.Mutex // guards what follows
	policy  nodecfg.Policy
	wanted  []nodecfg.Endpoint
	ofports map[string]uint32 // of local endpoints, by name; 0 = not there
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
	identity, err := overlay.OpenIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	socket, err := listenStatus(cfg.Status)
	if err != nil {
		return err
	}
	defer socket.Close() // and with it goes its path
	n := &node{cfg: cfg, log: log, since: time.Now(), policy: cfg.Policy, wanted: cfg.Endpoints, ofports: map[string]uint32{}}
	signalling, err := n.signal()
	if err != nil {
		return err
	}
	if cfg.Signal.Embedded() {
		if _, err := n.serverConfig(); err != nil {
			return err // now, and not while others wait
		}
	}
	joinTCP, joinUDP := takesSuperFrames(ctx, cfg)
	config := vias.Config{
		Name:      cfg.Network,
		Identity:  identity,
		Transport: n.transport(signalling),
		Device:    tap.LinuxConfig{Name: cfg.TAP.Name, MTU: cfg.TAP.MTU, Join: joinTCP, JoinUDP: joinUDP}.Open,
		OpenRate:  cfg.OpenRate,
		Logger:    log,
	}
	if cfg.Membership != "" {
		if n.member, err = openMember(cfg, identity.ID(), log); err != nil {
			return err
		}
		config.Admission = n.member
	}
	if cfg.Bridge != "" {
		kernel, err := underlay.Open(underlay.Config{Device: cfg.UplinkAddrDevice, Uplink: cfg.Uplink, Logger: log})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, kernel.Close()) }()
		if config.Bypass, err = n.side(kernel); err != nil {
			return err
		}
		config.Policy = cfg.Policy.Func()
	}
	if n.network, err = vias.New(config); err != nil {
		return err
	}
	if err := n.intend(ctx); err != nil {
		return err
	}
	log.Info("node starts", "id", identity.ID().String(), "network", cfg.Network, "bridge", cfg.Bridge, "pid", os.Getpid())
	if err := n.work(ctx, socket); err != nil {
		return err
	}
	log.Info("node has ended")
	return nil
}

// openMember reads who is a member.
func openMember(cfg *nodecfg.Config, self overlay.PeerID, log *slog.Logger) (*membership.Member, error) {
	c := membership.Config{Network: cfg.Network, Self: self, Dir: cfg.Membership, Logger: log}
	if cfg.MembershipLists == nodecfg.ListsWarn {
		c.Lists = membership.Warn
	}
	return membership.Open(c)
}

// side is the bypass's half of this machine.
func (n *node) side(kernel bypass.Underlay) (*bypass.Host, error) {
	open := ofpath.Open(ofpath.Config{
		Dial:   func(ctx context.Context) (ofctl.Switch, error) { return n.dialSwitch(ctx) },
		Uplink: n.cfg.Uplink,
		Logger: n.log,
	})
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

// dialSwitch connects to the bridge's OpenFlow socket. It does not return a *Conn,
// which would be a Switch that is not nil when it failed.
func (n *node) dialSwitch(ctx context.Context) (ofctl.Switch, error) {
	c, err := ofctl.Dial(ctx, n.cfg.OpenFlow, ofctl.Config{Logger: n.log})
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
	if n.member != nil {
		g.Go(func() error { n.member.Run(rest); return nil })
	}
	if n.cfg.Signal.Serve.IsValid() {
		g.Go(func() error { return n.rendezvous(rest) })
	}
	return g.Wait()
}
