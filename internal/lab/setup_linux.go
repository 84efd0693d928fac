package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

const (
	// setUpWorkers open connections at once.
	setUpWorkers = 16
	// setUpMore connections are opened one after the other when all others are bypassed.
	setUpMore = 20
	// setUpTime bounds how long flows may take to be bypassed after the last was opened, and
	// setUpQuiet how long none more may be: a flow that was refused asks again with its next
	// packet, and these have none.
	setUpTime  = 30 * time.Second
	setUpQuiet = 3 * time.Second
)

// SetUp is what it took to have so many flows of TCP bypassed at the SYN.
type SetUp struct {
	Flows int
	// Bypassed is how many of them were, in the end; figures are of those.
	Bypassed int
	// Took is from the first SYN to the last flow's bypass.
	Took time.Duration
	// First is from a connection's SYN until its node has it bypassed, while setUpWorkers open
	// connections; More the same for one connection at a time, when all Flows are bypassed.
	First, More RTT
	// NodesMicros and SwitchesMicros are the CPU time of both hosts' nodes and ovs-vswitchds
	// for each flow.
	NodesMicros, SwitchesMicros float64
	// Messages between both nodes and their switches in Took.
	Messages Messages
}

// StartCounted is StartNodes with nodes that limit no rate, and whose messages to and from
// their switches SetUp counts.
func (l *Lab) StartCounted(ctx context.Context, program string) error {
	for i, h := range l.hosts {
		if err := l.relayOpenFlow(i, filepath.Join(h.Dir, "openflow.sock")); err != nil {
			return err
		}
	}
	return l.startNodesAs(ctx, program, func(h *Host, c *nodecfg.Config) {
		c.OpenFlow = "unix:" + filepath.Join(h.Dir, "openflow.sock")
		c.Rate, c.OpenRate = 1_000_000, -1
	})
}

// relayOpenFlow passes connections at a socket on to a host's switch, until the lab is down.
func (l *Lab) relayOpenFlow(host int, path string) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	l.relays = append(l.relays, ln)
	to := strings.TrimPrefix(l.ovs[host].Mgmt(bridge), "unix:")
	go func() {
		for {
			node, err := ln.Accept()
			if err != nil {
				return // closed
			}
			sw, err := net.Dial("unix", to)
			if err != nil {
				_ = node.Close() // the node tries again
				continue
			}
			for _, c := range [][2]net.Conn{{sw, node}, {node, sw}} {
				go func() {
					_ = l.messages.pass(c[0], c[1]) // either end's end
					_, _ = sw.Close(), node.Close()
				}()
			}
		}
	}()
	return nil
}

// SetUp opens n connections from the first host's container to the second's, and waits until they
// are bypassed. That fewer than half are is an error. The nodes must have been started by StartCounted.
func (l *Lab) SetUp(ctx context.Context, n int) (s SetUp, err error) {
	if fail, err := l.isToBeHad(ctx, Kind{}); err != nil || fail != "" {
		return s, errors.Join(err, errors.New(fail))
	}
	stop, err := l.holdConnections()
	if err != nil {
		return s, err
	}
	defer stop()
	var held holder
	defer held.close()
	used, messages, start := [2]time.Duration{}, l.messages.read(), time.Now()
	if used[0], used[1], err = l.cpuOfAll(); err != nil {
		return s, err
	}
	if err := l.open(ctx, &held, setUpWorkers, n); err != nil {
		return s, err
	}
	first, last, err := l.awaitAllBypassed(ctx, &held)
	if err != nil {
		return s, err
	}
	if len(first) < n/2 {
		return s, fmt.Errorf("lab: of %d flows %d are bypassed", n, len(first))
	}
	nodes, switches, err := l.cpuOfAll()
	if err != nil {
		return s, err
	}
	s = SetUp{Flows: n, Bypassed: len(first), Took: last.Sub(start), First: rttOf(first), Messages: l.messages.read().since(messages),
		NodesMicros: micros(nodes-used[0]) / float64(len(first)), SwitchesMicros: micros(switches-used[1]) / float64(len(first))}
	var more holder
	defer more.close()
	if err := l.open(ctx, &more, 1, setUpMore); err != nil {
		return s, err
	}
	again, _, err := l.awaitAllBypassed(ctx, &more)
	s.More = rttOf(again)
	return s, err
}

func rttOf(took []time.Duration) RTT {
	if len(took) == 0 {
		return RTT{}
	}
	slices.Sort(took)
	return RTT{micros(took[len(took)/2]), micros(took[len(took)*99/100])}
}

func (l *Lab) cpuOfAll() (nodes, switches time.Duration, err error) {
	for i := range 2 {
		node, err := threadsTime(l.NodePID(i + 1))
		if err != nil {
			return 0, 0, err
		}
		sw, err := threadsTime(l.ovs[i].switchID)
		if err != nil {
			return 0, 0, err
		}
		nodes, switches = nodes+node, switches+sw
	}
	return nodes, switches, nil
}

// threadsTime is cpuTime, finer than its ticks of 10 ms: what all threads have used that a process
// has. Neither nodes nor switches end any while flows are set up.
func threadsTime(pid int) (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("lab: pid %d: no processor time (%w)", pid, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return 0, fmt.Errorf("lab: %w", err)
		}
		words := append(strings.Fields(string(text)), "") // on the processor, waiting, slices; ns
		ns, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("lab: %s: %w", f, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// holder has connections that stay open.
type holder struct {
	mu    sync.Mutex
	conns []net.Conn
	begun map[string]time.Time // by the client's address: just before its SYN
}

func (h *holder) close() {
	for _, c := range h.conns {
		_ = c.Close()
	}
}

// open makes n connections, so many at once, each with a byte there and back.
func (l *Lab) open(ctx context.Context, h *holder, workers, n int) error {
	to := netip.AddrPortFrom(l.hosts[1].Containers[0].Addr, TriggerSYN.port()).String()
	h.begun = make(map[string]time.Time, n)
	todo := make(chan struct{}, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	errs := make(chan error, workers)
	for range workers {
		go func() {
			errs <- within(l.hosts[0].Containers[0].Namespace, func() error {
				for range todo {
					if err := h.openOne(ctx, to); err != nil {
						return err
					}
				}
				return nil
			})
		}()
	}
	var err error
	for range workers {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return fmt.Errorf("lab: connections to hold: %w", err)
	}
	return nil
}

func (h *holder) openOne(ctx context.Context, to string) error {
	start := time.Now()
	c, err := (&net.Dialer{Timeout: requestTimeout}).DialContext(ctx, "tcp4", to)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.conns = append(h.conns, c)
	h.begun[c.LocalAddr().String()] = start
	h.mu.Unlock()
	b := []byte{requestByte}
	if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b)
	return err
}

// awaitAllBypassed waits until the first node says that all connections are bypassed, or that no
// more of them are for setUpQuiet, and returns how long each took, and when the last was.
func (l *Lab) awaitAllBypassed(ctx context.Context, h *holder) (took []time.Duration, last time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, setUpTime, errors.New("lab: flows did not stop changing"))
	defer cancel()
	most, since := -1, time.Now()
	err = poll(ctx, 250*time.Millisecond, func() (bool, error) {
		s, err := l.Node(1).Status(ctx)
		if err != nil {
			return false, err
		}
		took, last = took[:0], time.Time{}
		for _, f := range s.Flows {
			words := strings.Fields(f.Flow) // tcp CLIENT > SERVER
			if f.State != nodeapi.FlowBypassed || len(words) != 4 {
				continue
			}
			if began, ours := h.begun[words[1]]; ours {
				took = append(took, f.Since.Sub(began))
				if f.Since.After(last) {
					last = f.Since
				}
			}
		}
		if len(took) > most {
			most, since = len(took), time.Now()
		}
		return len(took) == len(h.begun) || time.Since(since) > setUpQuiet, nil
	})
	if err != nil {
		err = fmt.Errorf("%w (%d of %d)", err, len(took), len(h.begun))
	}
	return took, last, err
}

// holdConnections answers in the second host's container until stop.
func (l *Lab) holdConnections() (stop func(), err error) {
	c := l.hosts[1].Containers[0]
	var ln *net.TCPListener
	err = within(c.Namespace, func() (err error) {
		ln, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.Addr, TriggerSYN.port())))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: connections to hold: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			wg.Go(func() {
				defer conn.Close()
				var b [1]byte // io.Copy would splice, and need a pipe for each
				for {
					if _, err := io.ReadFull(conn, b[:]); err != nil {
						return // the client closed
					}
					if _, err := conn.Write(b[:]); err != nil {
						return
					}
				}
			})
		}
	})
	return func() { _ = ln.Close(); wg.Wait() }, nil
}
