package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/viasnet/vias/internal/lab/chaos"
	"github.com/viasnet/vias/internal/lab/nat"
	"github.com/viasnet/vias/overlay/tcpsignal"
)

// faults is what can be broken. All but the last are over within less than the transfers'
// connections wait, and must cost none of them.
func (r *chaosRun) faults() []chaos.Fault {
	var list []chaos.Fault
	for _, h := range r.hosts {
		list = append(list, r.hostFaults(h)...)
	}
	for i := range r.Lab.cfg.Sites {
		list = append(list, r.natFaults(r.Lab.cfg.siteNr(i))...)
	}
	return append(list,
		chaos.Fault{Kind: "signalling away", Target: "signalling", Min: 2 * time.Second, Max: 8 * time.Second,
			Break: func(context.Context) error { return r.rally.stop() },
			Mend:  func(context.Context) error { return r.rally.start() }},
		chaos.Fault{Kind: "relay killed", Target: "relay", Min: time.Second, Max: 5 * time.Second,
			Break: func(context.Context) error { return r.stopRelay() }, Mend: r.startRelay})
}

func (r *chaosRun) hostFaults(h *Host) []chaos.Fault {
	nr, name := h.Index, fmt.Sprintf("host %d", h.Index)
	plug := func(state string) func(context.Context) error {
		return func(ctx context.Context) error {
			return r.ip(ctx, h.Provider, fmt.Sprintf("link set h%d %s", nr, state))
		}
	}
	signal := func(s syscall.Signal) func(context.Context) error {
		return func(context.Context) error { return signalPID(r.OVS(nr).switchID, s) }
	}
	start := func(context.Context) error { return r.start(nr) }
	kill := func(context.Context) error { return r.end(nr, syscall.SIGKILL) }
	list := []chaos.Fault{
		{Kind: "link down", Target: "link of " + name, Min: time.Second, Max: 5 * time.Second, Break: plug("down"), Mend: plug("up")},
		{Kind: "node killed", Target: name, Min: 500 * time.Millisecond, Max: 4 * time.Second, Break: kill, Mend: start},
		{Kind: "node stopped in order", Target: name, Min: 500 * time.Millisecond, Max: 2 * time.Second,
			Break: func(context.Context) error { return r.end(nr, syscall.SIGTERM) }, Mend: start},
		{Kind: "switch killed", Target: name, Break: func(ctx context.Context) error { return r.OVS(nr).RestartVswitchd(ctx, true) }},
		{Kind: "switch stalled", Target: name, Min: time.Second, Max: 4 * time.Second, Break: signal(syscall.SIGSTOP), Mend: signal(syscall.SIGCONT)},
	}
	if r.cfg.Storms == 0 && r.cfg.Duration >= 2*time.Minute {
		list = append(list, chaos.Fault{Kind: "node away for long", Target: name, Fatal: true,
			Min: chaosPatience + 5*time.Second, Max: chaosPatience + 10*time.Second, Break: kill, Mend: start})
	}
	return list
}

func (r *chaosRun) natFaults(s site) []chaos.Fault {
	name := []string{"NAT of cloud A", "NAT of cloud B", "NAT at home"}[s.nr]
	wan := func(state string) func(context.Context) error {
		return func(ctx context.Context) error { return r.ip(ctx, s.namespace, "link set wan "+state) }
	}
	// A device that was down has lost its routes.
	up := func(ctx context.Context) error {
		return errors.Join(wan("up")(ctx), r.ip(ctx, s.namespace, "route replace default via "+nth(s.Outside, 254).String()))
	}
	become := func(kind nat.Router) func(context.Context) error {
		return func(ctx context.Context) error { return errors.Join(r.translate(ctx, s, kind), r.forget(s)) }
	}
	other := symmetricNAT
	if *s.NAT == symmetricNAT {
		other = fullCone
	}
	return []chaos.Fault{
		{Kind: "cloud cut off", Target: name, Min: time.Second, Max: 4 * time.Second, Break: wan("down"), Mend: up},
		{Kind: "NAT booted", Target: name, Min: time.Second, Max: 4 * time.Second,
			Break: func(ctx context.Context) error { return errors.Join(wan("down")(ctx), r.forget(s)) }, Mend: up},
		{Kind: "NAT of another kind", Target: name, Min: 4 * time.Second, Max: 8 * time.Second, Break: become(other), Mend: become(*s.NAT)},
	}
}

// forget has a router lose all flows that it has in mind.
func (r *chaosRun) forget(s site) error {
	err := within(s.namespace, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		return fmt.Errorf("lab: flush conntrack: %w", err)
	}
	return nil
}

// end ends a host's node, in order or not.
func (r *chaosRun) end(host int, sig syscall.Signal) error {
	r.nodesMu.Lock()
	n := r.nodes[host-1]
	r.nodesMu.Unlock()
	select {
	case <-n.exited:
		return fmt.Errorf("%w: it had ended by itself (%w): %s", chaos.ErrChaos, n.err, logTail(r.hosts[host-1].Log()))
	default:
	}
	if sig == syscall.SIGKILL {
		return errors.Join(n.proc.end(sig, 0), r.stop(n))
	}
	if err := r.endNode(host, n); err != nil {
		return fmt.Errorf("%w: %w", chaos.ErrChaos, err)
	}
	return nil
}

func (r *chaosRun) start(host int) error {
	r.nodesMu.Lock()
	defer r.nodesMu.Unlock()
	return r.restartNode(host, nil)
}

// startRelay starts coturn, which is STUN's server too.
func (r *chaosRun) startRelay(ctx context.Context) error {
	c, err := r.turnServer(ctx)
	if err != nil {
		return err
	}
	r.relayMu.Lock()
	r.relay = c
	r.relayMu.Unlock()
	return nil
}

func (r *chaosRun) stopRelay() error {
	r.relayMu.Lock()
	c := r.relay
	r.relayMu.Unlock()
	return errors.Join(c.proc.end(syscall.SIGKILL, 0), r.stop(c))
}

// rally is the rendezvous of all nodes, which can be away.
type rally struct {
	ns     string
	at     netip.AddrPort
	cancel context.CancelFunc
	served chan error // nil = it is away
}

func newRally(ns string, at netip.AddrPort) (*rally, error) {
	y := &rally{ns: ns, at: at}
	return y, y.start()
}

func (y *rally) start() error {
	var ln net.Listener
	err := within(y.ns, func() (err error) {
		ln, err = net.Listen("tcp4", y.at.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("lab: signalling: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- tcpsignal.Serve(ctx, ln, tcpsignal.ServerConfig{}) }()
	y.cancel, y.served = cancel, served
	return nil
}

// stop ends it, unless it is away.
func (y *rally) stop() error {
	if y.served == nil {
		return nil
	}
	y.cancel()
	err := <-y.served
	y.served = nil
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("lab: signalling: %w", err)
	}
	return nil
}
