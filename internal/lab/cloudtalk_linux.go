package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/nodeapi"
)

// meet connects two containers, once there is a way.
func (r *cloudsRun) meet(ctx context.Context, a, b *guest) error {
	limit, cancel := context.WithTimeout(ctx, cloudLimit)
	defer cancel()
	var last error
	err := poll(limit, cloudLook, func() (bool, error) {
		var s *stream
		// Each pair has a port of its own: a connection is known by it.
		s, last = startMarked(a.Container, b.Container, Kind{}, cloudPort+uint16(len(r.talks)), r.marker[:], r.cfg.Every)
		if last != nil {
			return false, nil
		}
		now := time.Now()
		r.talks = append(r.talks, &cloudTalk{stream: s, a: a, b: b, began: now, last: now})
		return true, nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("%s to %s: %w", a.Name, b.Name, err), last, r.explain())
	}
	return nil
}

// statuses asks all nodes; nil: it does not run, or does not answer.
func (r *cloudsRun) statuses(ctx context.Context) []*nodeapi.Status {
	list := make([]*nodeapi.Status, len(r.hosts))
	for i := range r.nodes {
		if !r.left[i+1] {
			list[i], _ = r.Node(i + 1).Status(ctx) // the pair's path is then not known
		}
	}
	return list
}

// look tells how all pairs talk.
func (r *cloudsRun) look(ctx context.Context) (pairs []CloudPair) {
	nodes := r.statuses(ctx)
	for _, t := range r.talks {
		p := CloudPair{From: t.a.Name, To: t.b.Name, At: [2]int{t.a.at, t.b.at}, Burst: t.burst}
		now := time.Now()
		since := t.last
		if now.Sub(since) > time.Millisecond {
			p.Mbps = float64(t.arrived(since)) * 8 / 1e6 / now.Sub(since).Seconds()
		}
		t.last = now
		p.RTT, p.Bytes, p.Gap = t.rtt(), t.arrived(t.began), t.gap(t.began)
		if err := t.broken(); err != nil {
			p.Broken = err.Error()
		}
		p.Path, p.Why = r.path(t, nodes)
		pairs = append(pairs, p)
	}
	return pairs
}

// path is how a pair talks by the word of both nodes, and why.
func (r *cloudsRun) path(t *cloudTalk, nodes []*nodeapi.Status) (path, why string) {
	if t.a.at == t.b.at {
		return PathSwitch, ""
	}
	near, far := nodes[t.a.at-1], nodes[t.b.at-1]
	if near == nil || far == nil {
		return PathNone, "a node does not answer"
	}
	a, b := flowOf(near, t.stream.from()), flowOf(far, t.stream.from())
	if a != nil && b != nil && a.State == nodeapi.FlowBypassed && b.State == nodeapi.FlowBypassed {
		return PathBypass, fmt.Sprintf("%s to %s", a.Local.Addr(), a.Remote.Addr())
	}
	path, why = PathNone, "no link"
	for _, end := range []struct {
		s    *nodeapi.Status
		peer int
	}{{near, t.b.at}, {far, t.a.at}} {
		for _, p := range end.s.Peers {
			switch {
			case p.ID != r.ids[end.peer-1]:
			case p.Link == nil:
				why = p.Reason
			case p.Link.Kind == "relay":
				path = PathRelay
			case path == PathNone:
				path = PathDirect
			}
		}
	}
	if path != PathNone {
		why = "the flow is not known yet"
		for _, f := range []*nodeapi.Flow{b, a} {
			if f != nil && f.Reason != "" {
				why = f.Reason
			}
		}
	}
	return path, why
}

// flowOf finds a flow by its client's end.
func flowOf(s *nodeapi.Status, client netip.AddrPort) *nodeapi.Flow {
	for i, f := range s.Flows {
		if strings.Contains(f.Flow+" ", " "+client.String()+" ") {
			return &s.Flows[i]
		}
	}
	return nil
}

// rtt is the smoothed round trip of the client's TCP; 0 = not known.
func (s *stream) rtt() (d time.Duration) {
	raw, err := s.client.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			d = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return d
}

// bursts has each pair after the other send as fast as it can.
func (r *cloudsRun) bursts(ctx context.Context) error {
	const name = "each pair alone, as fast as it can"
	r.cfg.Progress(name)
	for _, t := range r.talks {
		mbps, err := burst(ctx, t, r.cfg.Burst)
		if err != nil {
			return fmt.Errorf("lab: %s to %s: %w", t.a.Name, t.b.Name, err)
		}
		t.burst = mbps
	}
	pairs := r.look(ctx)
	r.cfg.Show(name, pairs)
	r.cfg.Progress("each pair alone: measured")
	r.report.Stages = append(r.report.Stages, CloudStage{Name: name, Took: time.Duration(len(r.talks)) * r.cfg.Burst, Pairs: pairs})
	return nil
}

// burst sends on a connection of its own, for a while from when the first byte is there.
func burst(ctx context.Context, t *cloudTalk, d time.Duration) (mbps float64, err error) {
	var ln *net.TCPListener
	if err := within(t.b.Namespace, func() (err error) {
		ln, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.b.Addr, 0)))
		return err
	}); err != nil {
		return 0, err
	}
	defer ln.Close()
	var from net.Conn
	if err := within(t.a.Namespace, func() (err error) {
		from, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp4", ln.Addr().String())
		return err
	}); err != nil {
		return 0, err
	}
	defer from.Close()
	to, err := acceptFrom(ln, from.LocalAddr())
	if err != nil {
		return 0, err
	}
	defer to.Close()
	const patience = 10 * time.Second // until the first byte is there
	begun := time.Now()
	if err := errors.Join(from.SetDeadline(begun.Add(patience+d)), to.SetDeadline(begun.Add(patience))); err != nil {
		return 0, err
	}
	go func() { // until from is closed
		b := make([]byte, 128<<10)
		for err := error(nil); err == nil; _, err = from.Write(b) {
		}
	}()
	if _, err := io.CopyN(io.Discard, to, 1); err != nil {
		return 0, fmt.Errorf("nothing came: %w", err)
	}
	if err := to.SetDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, to)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return float64(n+1) * 8 / 1e6 / time.Since(begun).Seconds(), nil
}
