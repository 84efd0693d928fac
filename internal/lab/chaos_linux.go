package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/viasnet/vias/internal/lab/chaos"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

const (
	chaosPort    = 5210 // and those after it: DefaultPolicy bypasses them
	chaosFinish  = 30 * time.Second
	chaosRecover = 75 * time.Second
	chaosClear   = 60 * time.Second
)

// chaosRun is a Chaos that is going on.
type chaosRun struct {
	*Lab
	cfg       ChaosConfig
	nodesMu   sync.Mutex // guards Lab.nodes, and start and end of nodes
	away      map[int]bool
	rally     *rally
	relay     *child
	relayMu   sync.Mutex // guards relay
	transfers []*chaos.Transfer
	seen      *watch
}

// Chaos builds two clouds and a home, with transfers between them, and breaks whatever
// there is at random for a while: links, NATs, nodes, switches, signalling and the relay.
// Then all must be as it was: checksums are right, no marker of a transfer was seen in clear
// outside a cloud, no node ended by itself, and nothing is left in any switch or on the
// machine. The report has what happened, also beside an error.
func Chaos(ctx context.Context, cfg ChaosConfig) (report ChaosReport, err error) {
	l, err := Up(ctx, cfg.lab())
	if err != nil {
		return report, err
	}
	r := &chaosRun{Lab: l, cfg: cfg, away: map[int]bool{}}
	report, err = r.run(ctx)
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), chaosClear)
	defer cancel()
	left := l.state.data // Down removes the file, not what was in it
	err = errors.Join(err, l.Down(down))
	return report, errors.Join(err, remains(left))
}

func (r *chaosRun) run(ctx context.Context) (report ChaosReport, err error) {
	defer func() { // also of what was only begun
		for _, t := range r.transfers {
			t.Abort()
		}
		if r.rally != nil {
			err = errors.Join(err, r.rally.stop())
		}
		if r.seen != nil {
			err = errors.Join(err, r.seen.end())
			report.Outside, report.Inside, report.Frames = r.seen.counts()
			if report.Outside > 0 {
				err = errors.Join(err, fmt.Errorf("%w: a marker was seen in clear %d times outside a cloud: %s", chaos.ErrChaos, report.Outside, r.seen.first()))
			}
		}
	}()
	if err := r.begin(ctx); err != nil {
		return report, err
	}
	report.Report, err = chaos.Run(ctx, chaos.Config{
		Seed: r.cfg.Seed, Duration: r.cfg.Duration, Storms: r.cfg.Storms, Storm: r.cfg.Storm, Recover: chaosRecover, Patience: chaosPatience,
		Faults: r.faults(), Transfers: r.transfers, Whole: r.whole, Progress: r.cfg.Progress,
	})
	report.Paths = r.paths(ctx)
	if err != nil {
		return report, errors.Join(err, r.explain(ctx))
	}
	return report, r.finish(ctx)
}

// begin starts servers, nodes, the capture and the transfers.
func (r *chaosRun) begin(ctx context.Context) error {
	outside := r.Lab.cfg.outside()
	if err := r.void(ctx); err != nil {
		return err
	}
	var err error
	if r.rally, err = newRally(outside, r.outsideServer(signalPort)); err != nil {
		return err
	}
	if err := r.startRelay(ctx); err != nil {
		return err
	}
	var marker chaos.Marker
	_, _ = rand.Read(marker[:]) // never fails (crypto/rand)
	if r.seen, err = r.watch(marker); err != nil {
		return err
	}
	if err := r.startNodesAs(ctx, r.cfg.Program, r.nodeAt); err != nil {
		return err
	}
	for i, p := range chaosPairs {
		t, err := r.transfer(uint16(chaosPort+i), p.a, p.b, p.kind, marker)
		if err != nil {
			return err
		}
		r.transfers = append(r.transfers, t)
	}
	return nil
}

// nodeAt is a node's configuration in chaos.
func (r *chaosRun) nodeAt(_ *Host, c *nodecfg.Config) {
	server := r.outsideServer(relayPort).String()
	c.Signal = nodecfg.Signal{TCP: r.outsideServer(signalPort)}
	c.STUN = []string{server}
	c.Relays = []nodecfg.Relay{{URL: "turn:" + server, Secret: relaySecret}}
}

// transfer is between the first containers of two hosts.
func (r *chaosRun) transfer(port uint16, a, b int, k Kind, marker chaos.Marker) (*chaos.Transfer, error) {
	from, to := r.hosts[a-1].Containers[0], r.hosts[b-1].Containers[0]
	var ln net.Listener
	err := within(to.Namespace, func() (err error) {
		ln, err = net.Listen(k.network(), netip.AddrPortFrom(to.addr(k), port).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: chaos: %w", err)
	}
	dial := func(ctx context.Context) (c net.Conn, err error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		err = within(from.Namespace, func() (err error) {
			c, err = d.DialContext(ctx, k.network(), ln.Addr().String())
			return err
		})
		if err == nil {
			_, err = tune(c.(*net.TCPConn), chaosPatience)
		}
		return c, err
	}
	name := fmt.Sprintf("%s to %s, %v, %s", from.Name, to.Name, k, r.across(a, b))
	return chaos.Start(name, chaos.Wire{Listener: patient{ln}, Dial: dial}, marker, uint64(port)), nil
}

// patient tunes what it accepts.
type patient struct{ net.Listener }

// Accept is the listener's.
func (p patient) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err == nil {
		_, err = tune(c.(*net.TCPConn), chaosPatience)
	}
	return c, err
}

// across names what is between two hosts.
func (r *chaosRun) across(a, b int) string {
	names := []string{"cloud A", "cloud B", "home"}
	x, y := names[r.Lab.cfg.site(a).nr], names[r.Lab.cfg.site(b).nr]
	if x == y {
		return "in " + x
	}
	return x + " and " + y
}

// whole says what is not as it should be while nothing is broken: every node runs, has
// every link, and the transfers of a cloud are bypassed.
func (r *chaosRun) whole(ctx context.Context) error {
	r.nodesMu.Lock()
	defer r.nodesMu.Unlock()
	var hosts []*nodeapi.Status
	for i, h := range r.hosts {
		select {
		case <-r.nodes[i].exited:
			return fmt.Errorf("the node of host %d ended by itself (%v): %s", h.Index, r.nodes[i].err, logTail(h.Log()))
		default:
		}
		if why := r.notLinked(ctx, h); why != "" {
			return fmt.Errorf("host %d: %s", h.Index, why)
		}
		s, err := r.Node(h.Index).Status(ctx)
		if err != nil {
			return err
		}
		hosts = append(hosts, s)
	}
	for i, p := range chaosPairs {
		if r.Lab.cfg.site(p.a).nr != r.Lab.cfg.site(p.b).nr {
			continue
		}
		to := netip.AddrPortFrom(r.hosts[p.b-1].Containers[0].addr(p.kind), uint16(chaosPort+i))
		for _, host := range []int{p.a, p.b} {
			if why := isBypassed(hosts[host-1], to); why != "" {
				return fmt.Errorf("%s: host %d: %s", r.transfers[i].Name, host, why)
			}
		}
	}
	return nil
}

// isBypassed says why no flow to or from a server is bypassed; "" = one is.
func isBypassed(s *nodeapi.Status, server netip.AddrPort) (why string) {
	why = "the node does not know the flow"
	for _, f := range s.Flows {
		if !strings.Contains(f.Flow+" ", " "+server.String()+" ") {
			continue
		}
		if f.State == nodeapi.FlowBypassed {
			return ""
		}
		why = f.State + ": " + f.Reason
	}
	return why
}

// paths are how nodes are linked.
func (r *chaosRun) paths(ctx context.Context) (list []string) {
	for _, h := range r.hosts {
		s, err := r.Node(h.Index).Status(ctx)
		if err != nil {
			list = append(list, fmt.Sprintf("host %d: %v", h.Index, err))
			continue
		}
		for _, p := range s.Peers {
			if name := fmt.Sprintf("h%d", h.Index); p.Link != nil && name < p.Name {
				list = append(list, fmt.Sprintf("%s to %s (%s): %s", name, p.Name, r.across(h.Index, int(p.Name[1]-'0')), p.Path))
			}
		}
	}
	return list
}

// explain is what the nodes wrote last, for an error.
func (r *chaosRun) explain(ctx context.Context) error {
	var text []string
	for _, h := range r.hosts {
		text = append(text, fmt.Sprintf("host %d: %s", h.Index, logTail(h.Log())))
		s, err := r.Node(h.Index).Status(ctx)
		if err != nil {
			continue
		}
		for _, f := range s.Flows {
			if f.State != nodeapi.FlowBypassed {
				text = append(text, fmt.Sprintf("  %s: %s: %s", f.Flow, f.State, f.Reason))
			}
		}
	}
	return errors.New(strings.Join(text, "\n"))
}

// finish ends transfers and nodes in order, and looks at what they left.
func (r *chaosRun) finish(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, chaosFinish)
	defer cancel()
	for _, t := range r.transfers {
		if err := t.Finish(limit); err != nil {
			return err
		}
	}
	errs := make([]error, len(r.nodes))
	var all sync.WaitGroup
	for i, n := range r.nodes {
		all.Go(func() { errs[i] = r.endNode(i+1, n) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", chaos.ErrChaos, err)
	}
	for _, h := range r.hosts {
		if err := r.clean(ctx, h); err != nil {
			return fmt.Errorf("%w: host %d: %w", chaos.ErrChaos, h.Index, err)
		}
	}
	if _, inside, _ := r.seen.counts(); inside == 0 {
		return fmt.Errorf("%w: no marker was seen inside a cloud: the capture is blind, or nothing was bypassed", chaos.ErrChaos)
	}
	return nil
}

// remains says what of a lab that was removed is there all the same.
func remains(d stateData) error {
	for _, ns := range d.Namespaces {
		if namespaceExists(ns) {
			return fmt.Errorf("%w: the namespace %s is left", chaos.ErrChaos, ns)
		}
	}
	if _, err := os.Stat(d.Dir); err == nil {
		return fmt.Errorf("%w: %s is left", chaos.ErrChaos, d.Dir)
	}
	running, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	self := filepath.Join("/proc", strconv.Itoa(os.Getpid()), "cmdline")
	for _, path := range running {
		args, _ := os.ReadFile(path) // it may have ended meanwhile
		if path != self && strings.Contains(string(args), d.Dir+"/") {
			return fmt.Errorf("%w: a process is left: %s", chaos.ErrChaos, strings.Join(slices.DeleteFunc(strings.Split(string(args), "\x00"), func(s string) bool { return s == "" }), " "))
		}
	}
	return nil
}
