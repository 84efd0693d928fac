package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// machineUp builds a physical machine: a namespace whose bridge has its own address, and
// the uplink to the provider as a port.
func (l *Lab) machineUp(ctx context.Context, nr int) error {
	ns, at := l.cfg.machine(nr), l.cfg.siteNr(0)
	if err := l.namespace(ctx, ns); err != nil {
		return err
	}
	if err := l.noIPv6(ctx, ns); err != nil {
		return err
	}
	plug := fmt.Sprintf("m%d", nr) // the provider's end
	if err := l.ips(ctx, at.namespace,
		fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %s", plug, l.cfg.UnderlayMTU, uplink, l.cfg.UnderlayMTU, ns),
		fmt.Sprintf("link set %s master %s up", plug, at.bridge)); err != nil {
		return err
	}
	if err := l.ips(ctx, ns, fmt.Sprintf("link add %s address 02:99:00:00:01:%02x type bridge mcast_snooping 0", machineBridge, nr)); err != nil {
		return err
	}
	if err := l.finishFrames(ctx, ns, machineBridge); err != nil {
		return err
	}
	return l.ips(ctx, ns,
		fmt.Sprintf("link set %s master %s up", uplink, machineBridge),
		fmt.Sprintf("link set %s mtu %d up", machineBridge, l.cfg.UnderlayMTU),
		fmt.Sprintf("addr add %s/%d dev %s", l.cfg.machineAddr(nr), at.Prefix.Bits(), machineBridge))
}

// Between is the lab as if it had two hosts, i and k, each with the containers from number
// first on, all counted from 1: for what is measured between the first two. It shares
// everything with l, whose Down removes it.
func (l *Lab) Between(i, k, first int) *Lab {
	view := &Lab{cfg: l.cfg, state: l.state}
	for _, nr := range []int{i, k} {
		h := *l.hosts[nr-1]
		h.Containers = h.Containers[first-1:]
		view.hosts, view.ovs = append(view.hosts, &h), append(view.ovs, l.ovs[nr-1])
		if len(l.nodes) > 0 {
			view.nodes = append(view.nodes, l.nodes[nr-1])
		}
	}
	return view
}

const (
	reachPort = 5208 // DefaultPolicy bypasses it
	// reachBytes are what each connection must carry, in both directions, once all are where
	// they belong.
	reachBytes = 64 << 10
	reachTime  = 40 * time.Second
)

// meeting is the connection of two containers.
type meeting struct {
	*stream
	a, b     *Host
	from, to Container
	rules    [2]map[string]uint64 // of a and b, once the connection was bypassed
}

func (m *meeting) String() string { return m.from.Name + " to " + m.to.Name }

// Reach has all containers talk to each other, and waits until every pair of two hosts is
// bypassed, by the word of both nodes and by the counters of both switches and all TAPs.
func (l *Lab) Reach(ctx context.Context) (r Reach, err error) {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	meetings, err := l.meet()
	defer func() {
		for _, m := range meetings {
			m.abort()
		}
	}()
	if err != nil {
		return r, err
	}
	for _, m := range meetings {
		if m.a == m.b {
			continue
		}
		if _, err := l.pairOf(m).bypassedSince(ctx, m.stream, time.Time{}); err != nil {
			return r, fmt.Errorf("%v: %w", m, err)
		}
	}
	if r, err = l.witness(ctx, meetings); err != nil {
		return r, err
	}
	for i, m := range meetings {
		r.Pairs[i].There, r.Pairs[i].Back, err = m.finish(finishTime)
		if err != nil {
			return r, fmt.Errorf("lab: %v: %w", m, err)
		}
	}
	return r, nil
}

// meet connects each container with each that comes after it.
func (l *Lab) meet() (list []*meeting, err error) {
	type guest struct {
		h *Host
		c Container
	}
	var guests []guest
	for _, h := range l.hosts {
		for _, c := range h.Containers {
			guests = append(guests, guest{h, c})
		}
	}
	for i, a := range guests {
		for _, b := range guests[i+1:] {
			s, err := startStreamBetween(a.c, b.c, Kind{}, reachPort)
			if err != nil {
				return list, fmt.Errorf("%s to %s: %w", a.c.Name, b.c.Name, err)
			}
			list = append(list, &meeting{stream: s, a: a.h, b: b.h, from: a.c, to: b.c})
		}
	}
	return list, nil
}

// pairOf is the view of a meeting between hosts.
func (l *Lab) pairOf(m *meeting) *Lab { return l.Between(m.a.Index, m.b.Index, 1) }

// witness lets reachBytes pass, and looks at what the counters say of them.
func (l *Lab) witness(ctx context.Context, meetings []*meeting) (r Reach, err error) {
	taps, err := l.tapBytes(ctx)
	if err != nil {
		return r, err
	}
	for _, m := range meetings {
		if m.rules, err = l.rulesOf(ctx, m); err != nil {
			return r, err
		}
	}
	start, why, total := time.Now(), "", uint64(0)
	err = poll(ctx, 100*time.Millisecond, func() (bool, error) {
		total, why, r.Pairs = 0, "", r.Pairs[:0]
		for _, m := range meetings {
			p, moved, err := l.reached(ctx, m, start)
			if err != nil {
				return false, err
			}
			if p.Way == WayBypass {
				total += 2 * moved
			}
			if moved < reachBytes || p.Way == WayBypass && p.RuleShare < most {
				why = fmt.Sprintf("%v: %d bytes arrived, and the rules counted %.3f of them", m, moved, p.RuleShare)
			}
			r.Pairs = append(r.Pairs, p)
		}
		return why == "", nil
	})
	if err != nil {
		return r, fmt.Errorf("lab: %s: %w", why, err)
	}
	after, err := l.tapBytes(ctx)
	if err != nil {
		return r, err
	}
	if r.TAPShare = float64(after-taps) / float64(max(total, 1)); r.TAPShare >= least {
		return r, fmt.Errorf("lab: bypassed, and yet the TAPs moved %.3f of it", r.TAPShare)
	}
	return r, nil
}

// reached is a meeting by now; moved bytes have arrived since start, in the direction with
// fewer.
func (l *Lab) reached(ctx context.Context, m *meeting, start time.Time) (p Reached, moved uint64, err error) {
	if err := m.broken(); err != nil {
		return p, 0, fmt.Errorf("lab: %v: %w", m, err)
	}
	p = Reached{From: m.from.Name, To: m.to.Name, Way: WaySwitch, Place: place(m.a, m.b)}
	moved = m.arrived(start)
	if m.a == m.b {
		return p, moved, nil
	}
	rules, err := l.rulesOf(ctx, m)
	if err != nil {
		return p, 0, err
	}
	p.Way = WayBypass
	// Outbound rules count at the one end what inbound ones count at the other.
	p.RuleShare = float64(min(grown(m.rules[0], rules[0]), grown(m.rules[1], rules[1]))) / float64(max(moved, 1))
	return p, moved, nil
}

// rulesOf counts a meeting's outbound bytes at the client's switch, and its inbound ones at
// the server's.
func (l *Lab) rulesOf(ctx context.Context, m *meeting) (rules [2]map[string]uint64, err error) {
	if m.a == m.b {
		return rules, nil
	}
	p := pair{client: m.from.Addr, server: m.to.Addr, clientHost: m.a.Addr, serverHost: m.b.Addr, port: reachPort, from: m.stream.from().Port()}
	c, err := l.pairOf(m).countRules(ctx, p.isOutbound, p.isInbound)
	return [2]map[string]uint64{c.sender, c.receiver}, err
}

// tapBytes sums the TAPs of all hosts.
func (l *Lab) tapBytes(ctx context.Context) (n uint64, err error) {
	for i := range l.hosts {
		t, err := l.tapCounters(ctx, i)
		if err != nil {
			return 0, err
		}
		n += t.bytes
	}
	return n, nil
}

// lxcPort is where each system container's own iperf3 listens; DefaultPolicy bypasses it.
const lxcPort = 5209

// SystemContainers has the system container of host i send to that of host k for d, and
// proves by the counters that this was bypassed.
func (l *Lab) SystemContainers(ctx context.Context, i, k int, d time.Duration) (s System, err error) {
	v := l.Between(i, k, l.cfg.workloads())
	from, to := v.hosts[0].Containers[0], v.hosts[1].Containers[0]
	if !from.LXC || !to.LXC {
		return s, fmt.Errorf("%w: no system containers in this lab", ErrLab)
	}
	s.From, s.To = from.Name, to.Name
	p := v.pair(Kind{}, Bypass)
	p.port = lxcPort
	var fail string
	s.Proof, fail, err = v.prove(ctx, Bypass, p, func() (moved uint64, err error) {
		moved, s.Mbps, err = v.iperfBy(ctx, slices.Concat(v.attachArgs(v.hosts[0], from), []string{"--"}), p, d)
		return moved, err
	})
	if err == nil && fail != "" {
		err = errors.New("lab: " + s.From + " to " + s.To + ": " + fail)
	}
	return s, err
}
