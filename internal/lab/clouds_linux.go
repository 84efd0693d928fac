package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/viasnet/vias/internal/lab/chaos"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
)

const (
	cloudNetwork = "clouds"
	natsPort     = 4222
	cloudPort    = 5220 // and those after it
	cloudLate    = 5    // the host that comes later, and leaves
	cloudTo      = 2    // whereto its container moves
	cloudLimit   = 75 * time.Second
	cloudFinish  = 30 * time.Second
	cloudClear   = 60 * time.Second
	cloudLook    = 500 * time.Millisecond
)

// cloudsRun is a Clouds that is going on.
type cloudsRun struct {
	*Lab
	cfg    CloudsConfig
	marker chaos.Marker
	seen   *watch
	talks  []*cloudTalk
	ids    []overlay.PeerID // of hosts
	left   map[int]bool     // hosts whose node was ended
	report CloudsReport
}

// guest is a container and the host that it stands at.
type guest struct {
	Container
	at int
}

// cloudTalk is a connection of two containers.
type cloudTalk struct {
	*stream
	a, b  *guest
	burst float64
	began time.Time // this stage
	last  time.Time // it was looked at
}

// Clouds shows one network across two clouds, which have the same private range, and a home behind a
// symmetric NAT. Nodes know an identity, the network's name, one rendezvous and their
// membership: they find each other's containers in the directory. All containers talk to all
// over one TCP connection each, while a node joins, its container moves to another cloud, and the node leaves. In
// each stage every pair must have the path that it should, and bytes must flow; at the
// end checksums must be right, no marker was seen in clear outside of a cloud, every node ended in order, and
// nothing is left. The report has what was seen, also beside an error.
func Clouds(ctx context.Context, cfg CloudsConfig) (CloudsReport, error) {
	cfg = cfg.normal()
	l, err := Up(ctx, cfg.lab())
	if err != nil {
		return CloudsReport{}, err
	}
	r := &cloudsRun{Lab: l, cfg: cfg, left: map[int]bool{}}
	err = r.run(ctx)
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), cloudClear)
	defer cancel()
	left := l.state.data // Down removes the file, not what was in it
	err = errors.Join(err, l.Down(down))
	if err = errors.Join(err, remains(left)); err != nil {
		r.report.Error = err.Error()
	}
	return r.report, err
}

func (r *cloudsRun) run(ctx context.Context) (err error) {
	defer func() { // also of what was only begun
		for _, t := range r.talks {
			t.abort()
		}
		if r.seen != nil {
			err = errors.Join(err, r.seen.end())
			r.report.Outside, r.report.Inside, r.report.Frames = r.seen.counts()
			if r.report.Outside > 0 {
				err = errors.Join(err, fmt.Errorf("lab: a marker was seen in clear %d times outside of a cloud: %s", r.report.Outside, r.seen.first()))
			}
		}
	}()
	if err := r.begin(ctx); err != nil {
		return err
	}
	if err := r.stages(ctx); err != nil {
		return err
	}
	if err := r.bursts(ctx); err != nil {
		return err
	}
	if r.cfg.Kept != nil {
		r.cfg.Kept(r.Lab) // until ctx ended, perhaps
		ctx = context.WithoutCancel(ctx)
	}
	return r.finish(ctx)
}

// begin starts what is outside, the capture, and the nodes of the hosts that are there from the beginning.
func (r *cloudsRun) begin(ctx context.Context) error {
	if err := r.void(ctx); err != nil {
		return err
	}
	if _, err := r.turnServer(ctx); err != nil {
		return err
	}
	_, _ = rand.Read(r.marker[:]) // never fails (crypto/rand)
	var err error
	if r.seen, err = r.watch(r.marker); err != nil {
		return err
	}
	if err := r.members(ctx); err != nil {
		return err
	}
	if err := r.startHub(ctx); err != nil {
		return err
	}
	for _, h := range r.hosts {
		if h.Index != cloudLate {
			if err := r.join(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// members makes the network's authority, and everybody a member, as an operator would: with the node
// program.
func (r *cloudsRun) members(ctx context.Context) error {
	do := func(args ...string) (string, error) { return command(ctx, r.cfg.Program, args...) }
	if _, err := do("ca", "init", "-dir", r.ca(), "-network", cloudNetwork); err != nil {
		return err
	}
	for _, identity := range append([]string{r.hub("identity.pem")}, r.identities()...) {
		request, err := do("id", "-identity", identity, "-request")
		if err != nil {
			return err
		}
		path := identity + ".request"
		if err := os.WriteFile(path, []byte(request), 0o600); err != nil {
			return fmt.Errorf("lab: %w", err)
		}
		if _, err := do("ca", "issue", "-dir", r.ca(), path); err != nil {
			return err
		}
		if identity == r.hub("identity.pem") {
			continue
		}
		id, err := overlay.OpenIdentity(identity)
		if err != nil {
			return err
		}
		r.ids = append(r.ids, id.ID())
	}
	return nil
}

func (r *cloudsRun) ca() string             { return filepath.Join(r.Dir(), "ca") }
func (r *cloudsRun) hub(name string) string { return filepath.Join(r.Dir(), "hub-"+name) }

func (r *cloudsRun) identities() (list []string) {
	for _, h := range r.hosts {
		list = append(list, h.Identity())
	}
	return list
}

func (r *cloudsRun) membership(identity string) (string, error) {
	id, err := overlay.OpenIdentity(identity)
	return filepath.Join(r.ca(), "nodes", id.ID().String()), err
}

// startHub starts a node that has no workloads: the rendezvous.
func (r *cloudsRun) startHub(ctx context.Context) error {
	at := r.outsideServer(natsPort)
	member, err := r.membership(r.hub("identity.pem"))
	if err != nil {
		return err
	}
	cfg := &nodecfg.Config{Identity: r.hub("identity.pem"), Network: cloudNetwork, Membership: member, Signal: nodecfg.Signal{Serve: at},
		Listen: netip.AddrPortFrom(at.Addr(), overlayPort), TAP: nodecfg.TAP{Name: "viashub"}, Status: r.hub("status.sock")}
	text, err := cfg.JSON()
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.hub("node.json"), text, 0o600); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	log, err := os.Create(r.hub("node.log"))
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer log.Close() // the child has its own
	c, err := r.spawn(r.Lab.cfg.outside(), nil, log, log, r.cfg.Program, "-config", r.hub("node.json"))
	if err != nil {
		return err
	}
	if err := c.waitListening(ctx, natsPort); err != nil {
		return fmt.Errorf("%w: %s", err, logTail(r.hub("node.log")))
	}
	return nil
}

// join starts a host's node.
func (r *cloudsRun) join(h *Host) error {
	cfg := r.nodeConfig(h)
	member, err := r.membership(h.Identity())
	if err != nil {
		return err
	}
	server := r.outsideServer(relayPort).String()
	cfg.Network, cfg.Membership = cloudNetwork, member
	cfg.Signal = nodecfg.Signal{NATS: &nodecfg.NATS{URLs: []string{"nats://" + r.outsideServer(natsPort).String()}}}
	// The NAT of cloud B knows who has a port by its number alone.
	cfg.Listen = netip.AddrPortFrom(h.Addr, overlayPort+uint16(h.Index))
	cfg.Log = "debug" // which tells of each attempt at another path; shown if a stage is not as it should be
	cfg.STUN, cfg.Relays = []string{server}, []nodecfg.Relay{{URL: "turn:" + server, Secret: relaySecret}}
	cfg.Trust, cfg.Policy = cloudTrust(h.Index, r.Lab.cfg.MaxRTT), nodecfg.Policy{Default: nodecfg.Bypass}
	return r.startNode(h, cfg, r.cfg.Program)
}

// stages are what is shown.
func (r *cloudsRun) stages(ctx context.Context) error {
	var guests []*guest
	meet := func(h *Host) error {
		g := &guest{Container: h.Containers[0], at: h.Index}
		for _, o := range guests {
			if err := r.meet(ctx, o, g); err != nil {
				return err
			}
		}
		guests = append(guests, g)
		return nil
	}
	late := r.hosts[cloudLate-1]
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"two clouds and a home", func() error {
			for _, h := range r.hosts {
				if h != late {
					if err := meet(h); err != nil {
						return err
					}
				}
			}
			return nil
		}},
		{fmt.Sprintf("host %d joins in %s", cloudLate, placeOf(cloudLate)), func() error { return errors.Join(r.join(late), meet(late)) }},
		{fmt.Sprintf("%s moves to host %d in %s", late.Containers[0].Name, cloudTo, placeOf(cloudTo)), func() error {
			return r.move(ctx, guests[len(guests)-1], cloudTo)
		}},
		{fmt.Sprintf("the node of host %d leaves", cloudLate), func() error { return r.leave(ctx, late) }},
	} {
		if err := r.stage(ctx, s.name, s.do); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// stage does something, and waits until everything is as it should be, and stays so.
func (r *cloudsRun) stage(ctx context.Context, name string, do func() error) error {
	r.cfg.Progress(name)
	begun := time.Now()
	for _, t := range r.talks {
		t.began = begun
	}
	if err := do(); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, cloudLimit)
	defer cancel()
	var pairs []CloudPair
	look := func() error {
		pairs = r.look(ctx)
		r.cfg.Show(name, pairs)
		return errors.Join(wrongPairs(pairs), r.ended())
	}
	var wrong error
	err := poll(limit, cloudLook, func() (bool, error) {
		wrong = look()
		return wrong == nil, nil
	})
	if err != nil {
		return errors.Join(wrong, err, r.explain())
	}
	took := time.Since(begun)
	if err := pause(ctx, r.cfg.Settle); err != nil {
		return err
	}
	if err := look(); err != nil {
		return errors.Join(err, r.explain())
	}
	r.report.Stages = append(r.report.Stages, CloudStage{Name: name, Took: took, Pairs: pairs})
	r.cfg.Progress(fmt.Sprintf("%s: all is as it should be after %.1f s", name, took.Seconds()))
	return nil
}

// ended says which nodes have ended by themselves.
func (r *cloudsRun) ended() error {
	for i, n := range r.nodes {
		if r.left[i+1] {
			continue
		}
		select {
		case <-n.exited:
			return fmt.Errorf("the node of host %d ended by itself (%v)", i+1, n.err)
		default:
		}
	}
	return nil
}

// explain is what the nodes wrote last.
func (r *cloudsRun) explain() error {
	text := []string{"rendezvous: " + logTail(r.hub("node.log"))}
	for _, h := range r.hosts[:len(r.nodes)] {
		text = append(text, fmt.Sprintf("host %d: %s", h.Index, logTail(h.Log())))
	}
	return errors.New(strings.Join(text, "\n"))
}
