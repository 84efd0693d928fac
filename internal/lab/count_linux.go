package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// counts is what the witnesses say at one moment: both switches' rules and both
// hosts' TAPs.
type counts struct {
	sender, receiver       map[string]uint64
	tapSender, tapReceiver tapCount
}

// tapCount sums both directions of a TAP, as the kernel counts them.
type tapCount struct{ packets, bytes uint64 }

func (l *Lab) count(ctx context.Context, m Mode, p pair) (counts, error) {
	if m == Native {
		return l.countRules(ctx, isNative, isNative)
	}
	return l.countRules(ctx, p.isOutbound, p.isInbound)
}

// countRules counts the rules of the first host that outbound picks, and those of
// the second that inbound picks.
func (l *Lab) countRules(ctx context.Context, outbound, inbound func(dumped) bool) (c counts, err error) {
	for i, w := range []struct {
		want  func(dumped) bool
		rules *map[string]uint64
		tap   *tapCount
	}{{outbound, &c.sender, &c.tapSender}, {inbound, &c.receiver, &c.tapReceiver}} {
		text, err := l.ovs[i].Ofctl(ctx, "dump-flows", l.workloads())
		if err != nil {
			return c, err
		}
		*w.rules = counters(parseFlows(text), w.want)
		if *w.tap, err = l.tapCounters(ctx, i); err != nil {
			return c, err
		}
	}
	return c, nil
}

// since is the proof of what happened between before and c.
func (c counts) since(before counts, moved uint64) Proof {
	share := func(n uint64) float64 { return float64(n) / float64(max(moved, 1)) }
	return Proof{
		Moved:       moved,
		Sender:      share(grown(before.sender, c.sender)),
		Receiver:    share(grown(before.receiver, c.receiver)),
		TAPSender:   share(c.tapSender.bytes - before.tapSender.bytes),
		TAPReceiver: share(c.tapReceiver.bytes - before.tapReceiver.bytes),
	}
}

// tapCounters reads the TAP of the host with that index; without nodes there is
// none, and it counts nothing.
func (l *Lab) tapCounters(ctx context.Context, host int) (t tapCount, err error) {
	if len(l.nodes) == 0 {
		return t, nil
	}
	out, err := command(ctx, "ip", "-n", l.hosts[host].Namespace, "-j", "-s", "link", "show", "dev", tapName)
	if err != nil {
		return t, err
	}
	type direction struct{ Packets, Bytes uint64 }
	var links []struct {
		Stats struct{ RX, TX direction } `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		return t, fmt.Errorf("lab: counters of %s: odd answer %q (%w)", tapName, out, err)
	}
	s := links[0].Stats
	return tapCount{s.RX.Packets + s.TX.Packets, s.RX.Bytes + s.TX.Bytes}, nil
}

// NativeOn lets the first containers of the first two hosts talk as on one wire, by flows of the lab's own
// above all others: on each switch two for frames, two for ARP and two for IPv6's neighbour
// solicitations, which are multicast.
func (l *Lab) NativeOn(ctx context.Context) error {
	for i, h := range l.hosts[:2] {
		local, remote := h.Containers[0], l.hosts[1-i].Containers[0]
		flow := fmt.Sprintf("cookie=%#x,table=0,priority=60000,", uint64(labCookie))
		for _, f := range []string{
			fmt.Sprintf("in_port=%d,dl_dst=%s,actions=output:%d", local.Ofport, remote.MAC, ofportUplink),
			fmt.Sprintf("in_port=%d,dl_dst=%s,actions=output:%d", ofportUplink, local.MAC, local.Ofport),
			fmt.Sprintf("in_port=%d,arp,arp_tpa=%s,actions=output:%d", local.Ofport, remote.Addr, ofportUplink),
			fmt.Sprintf("in_port=%d,arp,arp_tpa=%s,actions=output:%d", ofportUplink, local.Addr, local.Ofport),
			fmt.Sprintf("in_port=%d,icmp6,icmp_type=135,nd_target=%s,actions=output:%d", local.Ofport, remote.Addr6, ofportUplink),
			fmt.Sprintf("in_port=%d,icmp6,icmp_type=135,nd_target=%s,actions=output:%d", ofportUplink, local.Addr6, local.Ofport),
		} {
			if _, err := l.ovs[i].Ofctl(ctx, "add-flow", bridge, flow+f); err != nil {
				return errors.Join(err, l.NativeOff(context.WithoutCancel(ctx)))
			}
		}
	}
	return nil
}

// NativeOff removes the flows of NativeOn, and nobody else's.
func (l *Lab) NativeOff(ctx context.Context) error {
	var errs []error
	for _, o := range l.ovs[:2] {
		_, err := o.Ofctl(ctx, "del-flows", bridge, fmt.Sprintf("cookie=%#x/-1", uint64(labCookie)))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// machine says where the figures come from.
func (l *Lab) machine(ctx context.Context) map[string]string {
	m := map[string]string{"cpus": strconv.Itoa(runtime.NumCPU()), "arch": runtime.GOARCH, "go": runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m["kernel"] = unix.ByteSliceToString(u.Release[:])
	}
	if v, err := l.ovs[0].Vsctl(ctx, "--version"); err == nil {
		first, _, _ := strings.Cut(v, "\n")
		m["ovs"] = first[strings.LastIndexByte(first, ' ')+1:]
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			m["cpu"] = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	return m
}
