// Command links measures what many idle links cost one node: it dials peers, which are in a process
// of their own, over loopback with ICE and DTLS, and prints
//
//   - links made a second,
//   - memory a link: what the node's resident set grew by,
//   - the processor's time that the node takes while nothing is sent but what keeps links alive.
//
// With -whole both are whole Networks, with a device in which nothing happens, else they are
// Transports.
//
// It exits 1 where a bound of the project is missed. docs/evaluation/links.md has figures.
//
//	go run ./bench/links -links 1000
//
// Rate, and with it the time to make links, is bounded by the processor, which the peers share here: it
// says less about a node than about the machine.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls"
	"github.com/viasnet/vias/overlay/tcpsignal"
	"github.com/viasnet/vias/tap"
)

// Bounds of the project, for 1,000 links.
const (
	maxLinkBytes = 100_000 // a link
	maxIdle      = 0.03    // of one core
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

type options struct {
	links, parallel int
	idle, settle    time.Duration
	peers, whole    bool
	of              string
	cpu, heap       string
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	set := flag.NewFlagSet("links", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.IntVar(&o.links, "links", 1000, "how many")
	set.IntVar(&o.parallel, "parallel", 16, "dials at once")
	set.DurationVar(&o.idle, "idle", 30*time.Second, "how long idle links are measured")
	set.DurationVar(&o.settle, "settle", 40*time.Second, "how long they are left alone before: links are idle after 30 s")
	set.StringVar(&o.cpu, "cpuprofile", "", "write a profile of the idle time to `file`")
	set.StringVar(&o.heap, "memprofile", "", "write a profile of the heap to `file`")
	set.BoolVar(&o.whole, "whole", false, "whole Networks")
	set.StringVar(&o.of, "of", "", "whose peers: for the program itself")
	set.BoolVar(&o.peers, "peers", false, "be the peers: for the program itself")
	if err := set.Parse(args); err != nil {
		return 2
	}
	var err error
	if o.peers {
		err = servePeers(context.Background(), o, stdout)
	} else {
		err = measure(context.Background(), o, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "links:", err)
		return 1
	}
	return 0
}

// opener makes Transports on loopback.
func opener(rendezvous string) overlay.Opener {
	return icedtls.Open(icedtls.Config{
		Signal: tcpsignal.Dial(rendezvous), Listen: netip.MustParseAddrPort("127.0.0.1:0"), IncludeLoopback: true,
		DialTimeout: time.Minute,
	})
}

func open(ctx context.Context, id *overlay.Identity, rendezvous string) (overlay.Transport, error) {
	return opener(rendezvous)(ctx, overlay.Env{
		Identity: id, Logger: slog.New(slog.DiscardHandler),
		Admission: overlay.AdmitFunc(func(overlay.PeerID) bool { return true }),
	})
}

// drain receives from l until it ends, and says why.
func drain(l overlay.Link) error {
	b := tap.NewBatch(1, 2048)
	for {
		if err := l.RecvBatch(b); err != nil {
			return err
		}
	}
}

// there is what the peers print when they are.
type there struct {
	Rendezvous string           `json:"rendezvous"`
	Peers      []overlay.PeerID `json:"peers"`
}

// node is the one that is measured.
type node struct {
	links int
	lost  atomic.Int64
	why   atomic.Value // a string: of the last that was lost
}

// note counts a link that is lost.
func (n *node) note(why error) {
	n.why.Store(why.Error())
	n.lost.Add(1)
}

func measure(ctx context.Context, o options, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id, err := overlay.NewIdentity()
	if err != nil {
		return err
	}
	peers, stop, err := startPeers(ctx, o, id.ID())
	if err != nil {
		return err
	}
	defer stop()
	n := &node{}
	start := n.transport
	if o.whole {
		start = n.network
	}
	dial, shut, err := start(ctx, id, peers.Rendezvous)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shut()) }()
	before, err := look()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := dial(ctx, peers.Peers, o.parallel); err != nil {
		return err
	}
	took := time.Since(began)
	n.links = len(peers.Peers)
	fmt.Fprintf(out, "%d links (%d lost by now) in %v: %.0f a second (the peers' half runs on the same %d cores)\n",
		n.links, n.lost.Load(), took.Round(time.Millisecond), float64(n.links)/took.Seconds(), runtime.NumCPU())
	return n.judge(o, before, out)
}

// dialer links to all of them.
type dialer func(ctx context.Context, peers []overlay.PeerID, parallel int) error

// transport is a node that is a Transport alone.
func (n *node) transport(ctx context.Context, id *overlay.Identity, rendezvous string) (dialer, func() error, error) {
	t, err := open(ctx, id, rendezvous)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, peers []overlay.PeerID, parallel int) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for _, p := range peers {
			g.Go(func() error {
				l, err := t.Dial(ctx, p)
				if err == nil {
					go func() { n.note(drain(l)) }()
				}
				return err
			})
		}
		return g.Wait()
	}, t.Close, nil
}

// judge measures the links that are there, and compares with the bounds.
func (n *node) judge(o options, before *state, out io.Writer) error {
	time.Sleep(o.settle)
	if o.cpu != "" {
		f, err := os.Create(o.cpu)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	at, used := time.Now(), processorTime() // look's own work is not theirs
	time.Sleep(o.idle)
	idle := (processorTime() - used).Seconds() / time.Since(at).Seconds()
	pprof.StopCPUProfile()
	end, err := look()
	if err != nil {
		return err
	}
	if o.heap != "" {
		f, err := os.Create(o.heap)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.WriteHeapProfile(f); err != nil {
			return err
		}
	}
	links := n.links
	a := (end.resident - before.resident) / links
	fmt.Fprintf(out, "%d bytes a link: resident %d MB, %d MB before; heap in use %d, stacks %d; %.1f goroutines a link\n",
		a, end.resident>>20, before.resident>>20, end.heap/links, end.stacks/links,
		float64(end.goroutines-before.goroutines)/float64(links))
	fmt.Fprintf(out, "%.2f %% of a core idle, over %v\n", 100*idle, o.idle)
	switch scale := max(1, float64(links)/1000); {
	case n.lost.Load() > 0:
		return fmt.Errorf("%d links were lost: %v", n.lost.Load(), n.why.Load())
	case a > maxLinkBytes:
		return fmt.Errorf("a link takes more than %d bytes", maxLinkBytes)
	case idle > maxIdle*scale:
		return fmt.Errorf("idle links take more than %.1f %% of a core", 100*maxIdle*scale)
	}
	return nil
}

// state is what the process takes.
type state struct {
	resident     int // bytes
	heap, stacks int
	goroutines   int
}

// look collects garbage first: what is measured is what is held.
func look() (*state, error) {
	for range 3 { // a sync.Pool keeps what it has for one more
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	resident, err := residentSet()
	if err != nil {
		return nil, err
	}
	return &state{
		resident: resident,
		heap:     int(m.HeapInuse), stacks: int(m.StackInuse), goroutines: runtime.NumGoroutine(),
	}, nil
}

// startPeers starts them in a process of their own, which stop ends.
func startPeers(ctx context.Context, o options, of overlay.PeerID) (p *there, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	args := []string{"-peers", "-links", strconv.Itoa(o.links), "-of", of.String()}
	if o.whole {
		args = append(args, "-whole")
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("peers: %w", err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(pipe).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p)
	}
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("peers: %w", err)
	}
	return p, stop, nil
}
