package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	requestTimeout = 10 * time.Second
	requestWorkers = 64 // short connections that may be under way at once
	requestByte    = 'a'
)

// Latency measures round trips on one connection, first requests of new ones, and many
// short ones, between the first containers of the first two hosts. What did not go its way
// is no error but in Fails. The nodes must run with DefaultPolicy.
func (l *Lab) Latency(ctx context.Context, cfg LatencyConfig) (out Latency, err error) {
	cfg = cfg.normal()
	if fail, err := l.isToBeHad(ctx, Kind{}); err != nil || fail != "" {
		return out, errors.Join(err, errors.New(fail))
	}
	stop, err := l.serveRequests()
	if err != nil {
		return out, err
	}
	defer stop()
	err = l.withServers(ctx, []Mode{Native, Overlay, Bypass}, func() error { return l.roundTrips(ctx, cfg, &out) })
	if err != nil {
		return out, err
	}
	if out.First, err = l.firstRequests(ctx, cfg); err != nil {
		return out, err
	}
	// What the bypass leaves in the switches for its idle time burdens no other row.
	for t := range triggersNumber {
		r, err := l.requests(ctx, t, cfg.Rate, int(cfg.Duration.Seconds()*float64(cfg.Rate)))
		if err != nil {
			return out, fmt.Errorf("short connections, %s: %w", t, err)
		}
		out.Short = append(out.Short, r)
		cfg.Progress(fmt.Sprintf("short connections, %s: %.0f/s, p50 %.0f µs, %d errors, %d bypassed", t, r.Rate, r.P50Micros, r.Errors, r.SetUp))
	}
	for _, r := range append(out.First[:len(out.First):len(out.First)], out.Short...) {
		if why := r.check(); why != "" {
			out.Fails = append(out.Fails, fmt.Sprintf("%s: %s", r.Trigger, why))
		}
	}
	return out, nil
}

// roundTrips runs the ping-pong of each mode, round by round.
func (l *Lab) roundTrips(ctx context.Context, cfg LatencyConfig, out *Latency) error {
	var p50, p99 [modes][]float64
	for round := 1; round <= cfg.Rounds; round++ {
		for m := range modes {
			var r RTT
			var fail string
			err := l.inMode(ctx, m, func() (err error) {
				r, fail, err = l.rtt(ctx, m)
				return err
			})
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round, m, err)
			}
			cfg.Progress(fmt.Sprintf("round %d %-7s RTT p50 %.1f µs  p99 %.1f µs  %s", round, m, r.P50Micros, r.P99Micros, fail))
			if fail != "" {
				out.Fails = append(out.Fails, fmt.Sprintf("round %d, %s: %s", round, m, fail))
				continue
			}
			p50[m], p99[m] = append(p50[m], r.P50Micros), append(p99[m], r.P99Micros)
		}
	}
	for m := range modes {
		out.RTT[m] = RTT{median(p50[m]), median(p99[m])}
	}
	return nil
}

// firstRequests makes connections one after the other, each trigger in turn.
func (l *Lab) firstRequests(ctx context.Context, cfg LatencyConfig) (all []Requests, err error) {
	run := []Trigger{TriggerNative, TriggerNever, TriggerSYN}
	var took [triggersNumber][]time.Duration
	var errs [triggersNumber][]error
	var sum [triggersNumber]Requests
	for range cfg.Rounds {
		for _, t := range run {
			r, d, e, err := l.observed(ctx, t, 1, 0, cfg.Requests)
			if err != nil {
				return nil, fmt.Errorf("first requests, %s: %w", t, err)
			}
			took[t], errs[t] = append(took[t], d...), append(errs[t], e...)
			sum[t].SetUp += r.SetUp
			sum[t].TAPPackets += r.TAPPackets / float64(cfg.Rounds)
		}
	}
	for _, t := range run {
		r := newRequests(t, took[t], errs[t])
		r.SetUp, r.TAPPackets = sum[t].SetUp, sum[t].TAPPackets
		all = append(all, r)
		cfg.Progress(fmt.Sprintf("first request, %s: p50 %.0f µs  p99 %.0f µs", t, r.P50Micros, r.P99Micros))
	}
	return all, nil
}

// requests makes n connections at that rate.
func (l *Lab) requests(ctx context.Context, t Trigger, rate, n int) (Requests, error) {
	r, _, _, err := l.observed(ctx, t, requestWorkers, rate, n)
	return r, err
}

// observed makes n connections, so many at once, and reads all counters before and after.
// rate 0 = as fast as they come.
func (l *Lab) observed(ctx context.Context, t Trigger, workers, rate, n int) (r Requests, took []time.Duration, errs []error, err error) {
	err = l.inMode(ctx, t.mode(), func() error {
		// One that does not count: neighbours are looked up, servers awake.
		if _, bad := l.make(ctx, t, 1, 0, 1); len(bad) > 0 {
			return bad[0]
		}
		before, err := l.observe(ctx, t)
		if err != nil {
			return err
		}
		took, errs = l.make(ctx, t, workers, rate, n)
		after, err := l.observe(ctx, t)
		if err != nil {
			return err
		}
		r = newRequests(t, took, errs)
		each := float64(max(r.Done, 1))
		r.Rate = float64(r.Done) / after.at.Sub(before.at).Seconds()
		r.SetUp = after.rules - before.rules
		r.Dropped, r.Repeated = int(after.dropped-before.dropped), int(after.repeated-before.repeated)
		r.TAPPackets = float64(after.tap-before.tap) / each
		r.NodesMicros, r.SwitchesMicros = micros(after.nodes-before.nodes)/each, micros(after.switches-before.switches)/each
		return nil
	})
	return r, took, errs, err
}

// observation is what all counters say at one moment.
type observation struct {
	at              time.Time
	rules           int    // outbound ones of the trigger's port, at the client's switch
	tap             uint64 // packets
	nodes, switches time.Duration
	dropped         uint64 // by the nodes
	repeated        uint64 // segments, by the workloads
}

func (l *Lab) observe(ctx context.Context, t Trigger) (o observation, err error) {
	o.at = time.Now() // counters that take long to read are no part of a rate
	for i := range 2 {
		for pid, sum := range map[int]*time.Duration{l.NodePID(i + 1): &o.nodes, l.ovs[i].switchID: &o.switches} {
			used, err := cpuTime(pid)
			if err != nil {
				return o, err
			}
			*sum += used
		}
		if err := l.losses(ctx, i, &o); err != nil {
			return o, err
		}
	}
	tap, err := l.tapCounters(ctx, 0)
	if err != nil {
		return o, err
	}
	o.tap = tap.packets
	text, err := l.ovs[0].Ofctl(ctx, "dump-flows", bridge)
	if err != nil {
		return o, err
	}
	p := l.pair(Kind{}, Bypass)
	p.port = t.port()
	for _, f := range parseFlows(text) {
		if p.isOutbound(f) {
			o.rules++
		}
	}
	return o, nil
}

// losses adds what the host's node dropped and what its first container sent again.
func (l *Lab) losses(ctx context.Context, host int, o *observation) error {
	s, err := l.Node(host + 1).Status(ctx)
	if err != nil {
		return err
	}
	o.dropped += s.Stats.Dropped
	var text []byte
	if err := within(l.hosts[host].Containers[0].Namespace, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	repeated, err := segmentsRepeated(string(text))
	o.repeated += repeated
	return err
}

// segmentsRepeated finds RetransSegs (RFC 4022: tcpRetransSegs) in /proc/net/snmp, which has
// a line of names for each protocol and one of values.
func segmentsRepeated(snmp string) (uint64, error) {
	var names []string
	for line := range strings.Lines(snmp) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Tcp:" {
			continue
		}
		if i := slices.Index(names, "RetransSegs"); i >= 0 && i < len(f) {
			n, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("lab: RetransSegs: %w", err)
			}
			return n, nil
		}
		names = f
	}
	return 0, errors.New("lab: /proc/net/snmp has no RetransSegs")
}

// cpuTime is what a process has used (utime and stime in proc(5)).
func cpuTime(pid int) (used time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("lab: %w", err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("lab: /proc/%d/stat: %d fields", pid, len(fields))
	}
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, fmt.Errorf("lab: /proc/%d/stat: %w", pid, err)
		}
		used += time.Duration(n) * 10 * time.Millisecond
	}
	return used, nil
}

// make makes n connections from the first host's container, so many at once, the k-th of
// them k/rate seconds after the first, or later.
func (l *Lab) make(ctx context.Context, t Trigger, workers, rate, n int) (took []time.Duration, errs []error) {
	to := netip.AddrPortFrom(l.hosts[1].Containers[0].Addr, t.port())
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	worker := func() error {
		for {
			k := next.Add(1) - 1
			if k >= int64(n) || ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if rate > 0 {
				if err := pause(ctx, time.Until(start.Add(time.Duration(k)*time.Second/time.Duration(rate)))); err != nil {
					return err
				}
			}
			d, err := request(to, requestByte+byte(k%20))
			mu.Lock()
			if err != nil {
				errs = append(errs, err)
			} else {
				took = append(took, d)
			}
			mu.Unlock()
		}
	}
	for range workers {
		wg.Go(func() {
			if err := within(l.hosts[0].Containers[0].Namespace, worker); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return took, errs
}

// request connects, sends a byte, and has the next one back.
func request(to netip.AddrPort, b byte) (took time.Duration, err error) {
	start := time.Now()
	c, err := (&net.Dialer{Timeout: requestTimeout}).Dial("tcp", to.String())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(start.Add(requestTimeout)); err != nil {
		return 0, err
	}
	buf := []byte{b}
	if _, err := c.Write(buf); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		return 0, err
	}
	took = time.Since(start)
	if buf[0] != b+1 {
		return 0, fmt.Errorf("asked with %q, answered with %q", b, buf[0])
	}
	return took, nil
}

// serveRequests answers in the second host's container, at the port of each trigger.
func (l *Lab) serveRequests() (stop func(), err error) {
	var lns []*net.TCPListener
	var wg sync.WaitGroup
	stop = func() {
		for _, ln := range lns {
			_ = ln.Close()
		}
		wg.Wait()
	}
	c := l.hosts[1].Containers[0]
	for t := range triggersNumber {
		var ln *net.TCPListener
		err := within(c.Namespace, func() (err error) {
			ln, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.Addr, t.port())))
			return err
		})
		if err != nil {
			stop()
			return nil, fmt.Errorf("lab: requests: %w", err)
		}
		lns = append(lns, ln)
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return // closed
				}
				wg.Go(func() { answer(conn) })
			}
		})
	}
	return stop, nil
}

// answer gives one byte back, plus one, and waits for the other end to close.
func answer(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * requestTimeout))
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return
	}
	b[0]++
	if _, err := c.Write(b[:]); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c)
}
