package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// killNode ends the node of host number i with SIGKILL.
func (l *Lab) killNode(i int) error {
	c := l.nodes[i-1]
	return errors.Join(c.proc.end(syscall.SIGKILL, 0), l.stop(c))
}

// restartNode starts the node of host number i again, after killNode. edit may change
// its configuration; nil = it stays as it is.
func (l *Lab) restartNode(i int, edit func(*nodecfg.Config)) error {
	h, old := l.hosts[i-1], l.nodes[i-1]
	cfg, err := nodecfg.Load(h.Config())
	if err != nil {
		return err
	}
	if edit != nil {
		edit(cfg)
	}
	args := old.cmd.Args // ip netns exec NAMESPACE PROGRAM -config FILE
	others := l.nodes
	l.nodes = nil
	err = l.startNode(h, cfg, args[4])
	if err == nil {
		others[i-1] = l.nodes[0]
	}
	l.nodes = others
	return err
}

// stall stops the process of a host's switch for a while: nothing is forwarded, and
// nobody is answered.
func (l *Lab) stall(ctx context.Context, host int, d time.Duration) error {
	pid := l.OVS(host).switchID
	if err := signalPID(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	return errors.Join(pause(ctx, d), signalPID(pid, syscall.SIGCONT))
}

// unplug takes the provider's end of a host's uplink down for a while.
func (l *Lab) unplug(ctx context.Context, host int, d time.Duration) error {
	plug := fmt.Sprintf("link set h%d ", host)
	at := l.hosts[host-1].Provider
	if err := l.ip(ctx, at, plug+"down"); err != nil {
		return err
	}
	return errors.Join(pause(ctx, d), l.ip(context.WithoutCancel(ctx), at, plug+"up"))
}

// cutTable holds what the provider's network refuses.
const cutTable = "bridge cut"

// cut makes the provider's network drop what matches an nftables expression, in all
// directions; "" = everything. heal ends it.
func (l *Lab) cut(ctx context.Context, match string) error {
	plugs := make([]string, len(l.hosts))
	for i, h := range l.hosts {
		plugs[i] = fmt.Sprintf("h%d", h.Index)
	}
	_, err := l.in(ctx, l.cfg.outside(), "nft", fmt.Sprintf(
		"table %s { chain in { type filter hook prerouting priority -300; iifname { %s } %s counter drop; }; }",
		cutTable, strings.Join(plugs, ", "), match))
	return err
}

func (l *Lab) heal(ctx context.Context) error {
	_, err := l.in(ctx, l.cfg.outside(), "nft", "delete table "+cutTable)
	return err
}

// The first two hosts' nodes, whose containers the stream joins.
var streamHosts = [2]int{1, 2}

// stateOf is what both nodes say of a flow: its state if they agree, and since when
// (the earlier of both). Otherwise why says what is wrong.
func (l *Lab) stateOf(ctx context.Context, client string) (state string, since time.Time, why string) {
	for i, host := range streamHosts {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		s, err := l.Node(host).Status(ctx)
		cancel()
		if err != nil {
			return "", since, err.Error()
		}
		at := slices.IndexFunc(s.Flows, func(f nodeapi.Flow) bool { return strings.Contains(f.Flow+" ", " "+client+" ") })
		if at < 0 {
			return "", since, fmt.Sprintf("the node of host %d does not know the flow", host)
		}
		f := s.Flows[at]
		if i > 0 && f.State != state {
			return "", since, fmt.Sprintf("host 1 has the flow %s, and host %d %s: %s", state, host, f.State, f.Reason)
		}
		state, why = f.State, f.Reason
		if i == 0 || f.Since.Before(since) {
			since = f.Since
		}
	}
	return state, since, why
}

// bypassedSince waits until both nodes have the flow bypassed, both for the first
// time after a moment, and bytes of it arrive. It returns since when that is so.
func (l *Lab) bypassedSince(ctx context.Context, s *stream, after time.Time) (at time.Time, err error) {
	why := "nothing is known"
	err = poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if err := s.broken(); err != nil {
			return false, err
		}
		state, since, reason := l.stateOf(ctx, s.from().String())
		at, why = since, fmt.Sprintf("%s (%s)", state, reason)
		return state == nodeapi.FlowBypassed && since.After(after) && s.arrived(since) > 16*streamChunk, nil
	})
	if err != nil {
		return at, fmt.Errorf("lab: not bypassed: %s: %w", why, err)
	}
	return at, nil
}

// hasRules tells whether a host's switch holds anything but its own NORMAL flow.
func (l *Lab) hasRules(ctx context.Context, host int) (bool, error) {
	text, err := l.OVS(host).Ofctl(ctx, "dump-flows", l.workloads())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(parseFlows(text), func(f dumped) bool { return f.cookie != 0 }), nil
}

// noRules: a host's switch holds nothing of a node that has ended. Where it said that a peer
// did not answer in time, its guard may be there for a lease.
func (l *Lab) noRules(ctx context.Context, host int) error {
	wait := time.Nanosecond
	if strings.Contains(logTail(l.hosts[host-1].Log()), "not all taken down") {
		wait = guardLease
	}
	limit, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := poll(limit, 200*time.Millisecond, func() (bool, error) {
		has, err := l.hasRules(ctx, host)
		return !has, err
	})
	if err != nil {
		text, _ := l.OVS(host).Ofctl(ctx, "dump-flows", l.workloads())
		return fmt.Errorf("rules are left in the switch: %w: %s", err, text)
	}
	return nil
}

// guardLease is longer than a lease of the nodes.
const guardLease = 40 * time.Second
