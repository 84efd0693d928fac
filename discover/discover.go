package discover

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

// maxFrames is how many copies wait to be looked at; more are dropped and counted.
const maxFrames = 256

// frame is a copy of what came in at a port.
type frame struct {
	ofport uint32
	bytes  []byte
}

// Discoverer finds the workloads of one bridge.
type Discoverer struct {
	cfg     Config
	watcher *ovsdb.Watcher // nil: NoDatabase
	list    *portList      // instead
	learner *learner       // nil: NoLearning

	views  chan *ovsdb.View // the latest one, of length 1
	frames chan frame

	dropped, malformed atomic.Uint64

	// Of Run's loop alone.
	ports map[string]*port
	found bool

	mu     sync.Mutex // guards status
	status Status
}

// New checks cfg; nothing is opened.
func New(cfg Config) (*Discoverer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d := &Discoverer{cfg: cfg, views: make(chan *ovsdb.View, 1), frames: make(chan frame, maxFrames), ports: map[string]*port{}}
	if cfg.NoDatabase {
		d.list = newPortList(&d.cfg, d.seen)
	} else {
		var err error
		if d.watcher, err = ovsdb.New(cfg.OVSDB); err != nil {
			return nil, err
		}
	}
	if !cfg.NoLearning {
		d.learner = newLearner(&d.cfg, d.copied)
	}
	return d, nil
}

// Run attaches and detaches until ctx ends (nil). What is attached then stays; what is in
// the switch for learning is taken out, if the switch is there. It is called once.
func (d *Discoverer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if d.list != nil {
			d.list.run(ctx)
			return nil
		}
		return d.watcher.Run(ctx, d.seen)
	})
	g.Go(func() error { d.loop(ctx); return nil })
	if d.learner != nil {
		g.Go(func() error { d.learner.run(ctx); return nil })
	}
	return g.Wait()
}

// Status is what is found now.
func (d *Discoverer) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	s.Ports = slices.Clone(s.Ports)
	s.Dropped, s.Malformed = d.dropped.Load(), d.malformed.Load()
	return s
}

// seen keeps the latest view only. It is called from one goroutine.
func (d *Discoverer) seen(v *ovsdb.View) {
	select {
	case <-d.views:
	default:
	}
	d.views <- v
}

// copied takes a copy from the switch; it does not block.
func (d *Discoverer) copied(f frame) {
	select {
	case d.frames <- f:
	default:
		d.dropped.Add(1)
	}
}

// loop owns the ports.
func (d *Discoverer) loop(ctx context.Context) {
	again := time.NewTicker(d.cfg.Retry)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-d.views:
			d.look(v)
		case f := <-d.frames:
			if !d.learn(f) {
				continue
			}
		case <-again.C:
		}
		d.reconcile(ctx)
	}
}

// look takes over which ports there are.
func (d *Discoverer) look(v *ovsdb.View) {
	b, found := v.Bridge(d.cfg.Bridge)
	if !found && d.found {
		d.cfg.Logger.Warn("discover: the bridge is gone", "bridge", d.cfg.Bridge)
	}
	d.found = found
	here := map[string]bool{}
	for _, p := range b.Ports {
		if len(p.Interfaces) == 0 {
			continue
		}
		here[p.Name] = true
		known := d.ports[p.Name]
		if known == nil {
			known = &port{name: p.Name}
			d.ports[p.Name] = known
		}
		known.update(&d.cfg, b, p)
	}
	for name, p := range d.ports {
		p.gone = !here[name]
	}
}

// learn takes a workload's word. false: it changed nothing.
func (d *Discoverer) learn(f frame) bool {
	c, ok := readClaim(f.bytes)
	if !ok {
		d.malformed.Add(1)
		return false
	}
	for _, p := range d.ports {
		if p.learning() && p.ofport == f.ofport {
			return p.take(c, d.cfg.MaxLearned)
		}
	}
	return false
}

// reconcile makes what is attached be what is found. What goes comes first: its
// addresses and its name may be another's now.
func (d *Discoverer) reconcile(ctx context.Context) {
	names := slices.Sorted(maps.Keys(d.ports))
	for _, name := range names {
		p := d.ports[name]
		d.judge(p)
		if p.told != "" && (p.want == nil || p.want.Name != p.told) {
			d.detach(ctx, p)
		}
		if p.gone && p.told == "" {
			delete(d.ports, name)
		}
	}
	for _, name := range names {
		if p := d.ports[name]; p != nil && p.want != nil && (p.attached == nil || !p.attached.equal(p.want)) {
			d.attach(ctx, p)
		}
	}
	if d.learner != nil {
		d.learner.want(d.lessons(names))
	}
	d.publish()
}

func (d *Discoverer) attach(ctx context.Context, p *port) {
	for _, o := range d.ports {
		if o != p && o.told == p.want.Name {
			p.refuse(d.cfg.Logger, "its name "+short(p.want.Name)+" is that of port "+o.name)
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.AttachTimeout)
	defer cancel()
	e := *p.want
	e.IPs = slices.Clone(e.IPs)
	p.told, p.attached = e.Name, nil // an error may come after half of it was done
	if err := d.cfg.Sink.Attach(ctx, e); err != nil {
		p.refuse(d.cfg.Logger, err.Error())
		return
	}
	p.attached, p.failed = p.want, ""
	d.cfg.Logger.Info("discover: endpoint attached", "endpoint", e.Name, "port", e.Port, "ofport", e.Ofport, "mac", e.MAC, "ips", e.IPs, "known", e.Known)
}

func (d *Discoverer) detach(ctx context.Context, p *port) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.AttachTimeout)
	defer cancel()
	name := p.told
	if err := d.cfg.Sink.Detach(ctx, name); err != nil {
		p.refuse(d.cfg.Logger, err.Error())
		return
	}
	p.told, p.attached, p.failed = "", nil, ""
	d.cfg.Logger.Info("discover: endpoint detached", "endpoint", name, "port", p.name)
}

func (d *Discoverer) publish() {
	s := Status{Found: d.found, Ports: []PortStatus{}}
	for _, name := range slices.Sorted(maps.Keys(d.ports)) {
		s.Ports = append(s.Ports, d.ports[name].status())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status = s
}
