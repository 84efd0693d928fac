package vias

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/internal/flowtable"
	"github.com/viasnet/vias/internal/l2"
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Network is one node's part in a layer-2 network. All methods may be called by
// several goroutines, before, during and after Run.
type Network struct {
	config Config
	self   overlay.PeerID
	log    *slog.Logger

	shared pump.Shared
	holds  *flowtable.Holds
	policy atomic.Pointer[policy]
	// setting serialises SetPolicy, so that the host ends with the policy that we do.
	setting sync.Mutex
	hub     hub
	told    announcer
	intros  introducer
	held    released
	// finder is nil, and the two others unused, without a Directory.
	finder    *finder
	publisher publisher
	health    directoryHealth
	join      joiner // nil = overlay only
	// messages are batches that links' control messages leave in.
	messages sync.Pool

	ready chan struct{} // closed when Run has everything open
	done  chan struct{} // closed when Run is over
	// running is set while Run has everything open.
	running atomic.Pointer[running]

	mu        sync.Mutex // guards everything below
	phase     phase
	peers     map[overlay.PeerID]*peer
	endpoints map[string]*endpoint
	wake      chan struct{} // there is a peer to start
}

type phase uint8

const (
	blank phase = iota
	started
	stopping
)

// running is what Run opened.
type running struct {
	device    tap.Device
	queues    []tap.Device   // of device
	writers   []*pump.Writer // for each
	alone     *sync.Mutex    // for pump.OutConfig
	transport overlay.Transport
	directory overlay.Directory // nil = all peers are known
	member    member            // nil = overlay only
}

// writer is the one for what a peer sends: always the same, so that its frames stay in order.
func (r *running) writer(id overlay.PeerID) *pump.Writer {
	return r.writers[int(id[0])%len(r.writers)]
}

// New checks c and makes a Network of it. Nothing is opened before Run.
func New(c Config) (*Network, error) {
	if err := c.check(); err != nil {
		return nil, &OpError{"config", c.Name, err}
	}
	if c.Drain == 0 {
		c.Drain = DefaultDrain
	}
	if c.IdleLink == 0 {
		c.IdleLink = DefaultIdleLink
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Policy == nil {
		c.Policy = bypass.Never
	}
	n := &Network{
		config: c,
		self:   c.Identity.ID(),
		log:    c.Logger.With("network", c.Name),
		shared: pump.Shared{
			Stations: l2.New(),
			Flows:    flowtable.New(0),
			Ports:    &pump.Ports{},
			Counters: &pump.Counters{},
			Opens:    pump.NewOpens(c.OpenRate),
			Bypass:   c.Bypass != nil,
			Spares:   pump.NewSpares(),
		},
		holds:     flowtable.NewHolds(),
		ready:     make(chan struct{}),
		done:      make(chan struct{}),
		peers:     map[overlay.PeerID]*peer{},
		endpoints: map[string]*endpoint{},
		wake:      make(chan struct{}, 1),
		messages:  sync.Pool{New: func() any { return tap.NewBatch(16, 16*1536) }},
	}
	n.policy.Store(&policy{c.Policy, 1})
	n.told.init()
	n.intros.init()
	n.held.init()
	n.publisher.init()
	if c.Directory != nil {
		n.finder, n.told.also = newFinder(n), n.publisher.poke
	}
	if c.Bypass != nil {
		n.join = hostJoiner{c.Bypass}
	}
	return n, nil
}

// ID is this node's peer ID.
func (n *Network) ID() overlay.PeerID { return n.self }

// Run opens device and transport, joins the bypass host, and keeps everything
// going until ctx ends (nil) or something fatal happens (an *OpError). It can be
// called once.
//
// Fatal are: what cannot be opened, the device's end, and the transport's end. Not
// fatal are: links, peers that refuse us, signalling, the switch; they are retried.
//
// In both cases bypassed flows are taken down (for at most Config.Drain) and
// endpoints are withdrawn from peers, then links, transport and device are closed.
// Nothing that Run started outlives it.
func (n *Network) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.phase != blank {
		n.mu.Unlock()
		return &OpError{"run", n.config.Name, ErrRunning}
	}
	n.phase = started
	n.mu.Unlock()
	defer n.hub.close()
	defer close(n.done)
	defer n.setStopping()

	r, err := n.open(ctx)
	if err == nil {
		err = n.runOpen(ctx, r)
	} else if ctx.Err() != nil {
		err = nil // told to end before it had begun
	}
	if err != nil {
		return &OpError{"run", n.config.Name, err}
	}
	return nil
}

func (n *Network) setStopping() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phase = stopping
}

// open opens everything, or nothing.
func (n *Network) open(ctx context.Context) (*running, error) {
	r := &running{}
	if err := n.openInto(ctx, r); err != nil {
		r.close(n.log)
		r.closeDirectory(n.log)
		return nil, err
	}
	return r, nil
}

func (n *Network) openInto(ctx context.Context, r *running) (err error) {
	if r.device, err = n.config.Device(ctx); err != nil {
		return fmt.Errorf("open device: %w", err)
	}
	if r.queues = tap.Queues(r.device); len(r.queues) > tap.MaxQueues {
		return fmt.Errorf("open device: %d queues; at most %d", len(r.queues), tap.MaxQueues)
	}
	r.writers = pump.NewWriters(r.queues)
	if n.config.Bypass != nil && len(r.queues) > 1 {
		r.alone = &sync.Mutex{}
	}
	r.transport, err = n.config.Transport(ctx, overlay.Env{Identity: n.config.Identity, Admission: admission{n}, Logger: n.log})
	if err != nil {
		return fmt.Errorf("open transport: %w", err)
	}
	if err := n.openDirectory(ctx, r); err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	if n.join == nil {
		return nil
	}
	r.member, err = n.join.join(ctx, bypass.MemberConfig{
		Network: n.config.Name,
		Self:    n.self,
		Policy:  n.policy.Load().decide,
		MTU:     r.device.MTU(),
		Resolve: n.resolve,
		Send:    n.sendBypass,
		Changed: n.flowChanged,
	})
	if err != nil {
		return fmt.Errorf("join bypass host: %w", err)
	}
	return nil
}

// close closes links, transport and device, in this order: what a frame could
// still come from goes first.
func (r *running) close(log *slog.Logger) {
	if r.transport != nil {
		if err := r.transport.Close(); err != nil {
			log.Warn("closing the transport failed", "err", err)
		}
	}
	if r.device != nil {
		if err := r.device.Close(); err != nil {
			log.Warn("closing the device failed", "err", err)
		}
	}
}

// runOpen runs until ctx ends or a goroutine fails, then stops everything in order.
func (n *Network) runOpen(ctx context.Context, r *running) error {
	// Everything outlives ctx until the bypass is taken down in order.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// They do not end when one of them fails, but as if ctx had ended: peers are to
	// be told of that while there are links.
	g, failed := errgroup.WithContext(work)
	n.running.Store(r)
	n.giveMemberPolicy(r)

	for i := range r.queues {
		g.Go(func() error { return n.sendFrames(r, i) })
	}
	g.Go(func() error { return n.watchDevice(work, r) })
	g.Go(func() error { return n.acceptLinks(work, r) })
	g.Go(func() error { return n.runPeers(work, r) })
	g.Go(func() error { return n.watchLinks(work) })
	g.Go(func() error { return n.housekeep(work) })
	g.Go(func() error { return n.announceChanges(work) })
	g.Go(func() error { return n.watchAdmission(work, r) })
	if r.directory != nil {
		g.Go(func() error { return n.finder.find(work, r) })
		g.Go(func() error { return n.publish(work, r.directory) })
	}
	if r.member != nil {
		g.Go(func() error { return n.expireHeld(work) })
		g.Go(func() error { return n.injectHeld(work, r.member) })
		g.Go(func() error { return n.attachEarly(work, r.member) })
		g.Go(func() error { return n.introduceEndpoints(work, r.member) })
	}
	close(n.ready)

	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	n.setStopping()
	if r.member != nil {
		leave, done := context.WithTimeout(context.WithoutCancel(ctx), n.config.Drain)
		if err := r.member.Leave(leave); err != nil {
			n.log.Warn("bypassed flows were not all taken down", "err", err)
		}
		done()
	}
	n.withdraw()
	cancel()
	n.running.Store(nil)
	r.close(n.log)
	err := g.Wait()
	n.finder.giveUp()
	r.closeDirectory(n.log)
	n.releaseAll()
	if errors.Is(err, errStopped) {
		err = nil
	}
	return err
}

// errStopped ends the errgroup of a Run that was told to end.
var errStopped = errors.New("stopped")

// ended turns the error of a goroutine that ends because Run does into errStopped.
func (n *Network) ended(err error) error {
	if n.running.Load() == nil {
		return errStopped
	}
	return err
}

// sendFrames moves frames from one of the device's queues to the links.
func (n *Network) sendFrames(r *running, queue int) error {
	out := pump.NewOut(pump.OutConfig{
		Shared:  n.shared,
		Device:  r.queues[queue],
		Queue:   queue,
		Alone:   r.alone,
		Writer:  r.writers[queue],
		Learn:   n.config.Learn,
		Learned: n.told.changed,
		Trigger: pump.Trigger{
			Network: n.config.Name,
			Policy:  n.policyNow,
			Asker:   r.member,
			Holds:   n.holds,
			Held:    n.held.added,
		},
		Finder: n.pumpFinder(),
	})
	if n.finder != nil && queue == 0 {
		n.finder.out.Store(out)
	}
	return n.ended(out.Run())
}

// watchDevice waits for a failure to write.
func (n *Network) watchDevice(ctx context.Context, r *running) error {
	select {
	case err := <-r.writers[0].Failed():
		return n.ended(err)
	case <-ctx.Done():
		return nil
	}
}

// housekeep forgets what is old.
func (n *Network) housekeep(ctx context.Context) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			n.shared.Flows.Sweep(now)
			n.stationsChanged(n.shared.Stations.Age(now))
			n.forgetGuests(now)
		}
	}
}

// Ready waits until Run has everything open. It does not wait for peers, nor for
// the switch: Attach does. An error means that ctx ended or the Network did.
func (n *Network) Ready(ctx context.Context) error {
	select {
	case <-n.ready:
		select {
		case <-n.done:
			return &OpError{"ready", n.config.Name, ErrClosed}
		default:
			return nil
		}
	case <-n.done:
		return &OpError{"ready", n.config.Name, ErrClosed}
	case <-ctx.Done():
		return &OpError{"ready", n.config.Name, context.Cause(ctx)}
	}
}
