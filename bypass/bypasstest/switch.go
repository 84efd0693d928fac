package bypasstest

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/tap"
)

// SwitchConfig describes a host's switch and uplink.
type SwitchConfig struct {
	// UplinkMAC is what the wire knows the host by.
	UplinkMAC tap.MAC
	// Addrs are the host's underlay addresses; only a Wire's Router looks at them.
	Addrs []netip.Addr
	// Underlay, if not nil, is asked whether the host's own guard drops a packet
	// before the host's stack sees it.
	Underlay *Underlay
}

// Switch is a switch in memory, with an uplink on a Wire. It outlives the
// Datapaths that are opened on it, as a real one outlives the process that programs
// it. All methods may be called by several goroutines; functions given to it are
// called without its locks held.
type Switch struct {
	wire *Wire
	cfg  SwitchConfig

	mu    sync.Mutex
	ports map[uint32]port
	tap   func(frame []byte)
	host  func(frame []byte)
	tables
	faults
	conns    map[*conn]bool
	counters Counters
}

type port struct {
	mac     tap.MAC
	deliver func(frame []byte)
	tap     func(frame []byte) // instead of the Switch's; nil = that
}

// Counters say where a Switch's frames went.
type Counters struct {
	Outbound, Inbound uint64 // by a rule, rewritten
	Plain             uint64 // from a workload to the tap
	Probe, Orphan     uint64 // from the wire to the controller
	Guard             uint64
	Errors            uint64 // ICMP errors that came up, besides going to the host
	HostGuarded       uint64 // dropped by the host's own guard
	Host              uint64 // to the host's stack
	Dropped           uint64 // rule without a hop or port
	Changes           uint64 // Apply and Set calls that changed something or might have
}

// HeadersOnly is how many bytes of an orphan's or a guarded frame a PacketIn has, as
// real switches are told to send: a TCP header over IPv6, with a VLAN tag.
const HeadersOnly = 96

// ErrorRate is how many ICMP errors come up in a second at most, as PacketError; so many
// come at once, too.
const ErrorRate = 100

// bucket is a token bucket of ErrorRate.
type bucket struct {
	full time.Time // when it will be
}

// take takes a token, if there is one.
func (b *bucket) take(now time.Time) bool {
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Sub(now) > time.Second-time.Second/ErrorRate {
		return false
	}
	b.full = b.full.Add(time.Second / ErrorRate)
	return true
}

// NewSwitch makes a switch with its uplink on w and no rules.
func (w *Wire) NewSwitch(cfg SwitchConfig) *Switch {
	s := &Switch{wire: w, cfg: cfg, ports: map[uint32]port{}, conns: map[*conn]bool{}}
	s.tables.clear()
	w.join(s)
	return s
}

// Tap sets where frames of workloads go that no rule takes: the overlay's side.
// f may keep the frame. nil drops them.
func (s *Switch) Tap(f func(frame []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tap = f
}

// TapOf does that for the workload at ofport alone, which has an overlay of its own. It lasts as
// long as the port.
func (s *Switch) TapOf(ofport uint32, f func(frame []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.ports[ofport]; ok {
		p.tap = f
		s.ports[ofport] = p
	}
}

// Host sets where frames from the wire go that nothing takes: the host's own
// stack. f may keep the frame. nil drops them.
func (s *Switch) Host(f func(frame []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = f
}

// AddPort gives the switch a workload's port. deliver gets the frames that leave it
// towards the workload, and may keep them.
func (s *Switch) AddPort(ofport uint32, mac tap.MAC, deliver func(frame []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[ofport] = port{mac: mac, deliver: deliver}
	s.changedLocked()
	s.emitLocked(bypass.PortsChanged{})
}

// RemovePort takes a port away; rules that name it stay and forward nothing.
func (s *Switch) RemovePort(ofport uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, ofport)
	s.changedLocked()
	s.emitLocked(bypass.PortsChanged{})
}

// Send is the workload at ofport sending a frame. frame is copied.
func (s *Switch) Send(ofport uint32, frame []byte) {
	frame = bytes.Clone(frame)
	s.mu.Lock()
	p, ok := Parse(frame)
	d := decision{verdict: toTap}
	if ok {
		d = s.decideLocked(frameKey(ofport, p), func(now time.Time) decision {
			return s.outbound(now, ofport, p)
		})
	}
	f := s.executeLocked(d, frame)
	if d.verdict == toTap && s.ports[ofport].tap != nil {
		f = call(s.ports[ofport].tap, frame)
	}
	s.mu.Unlock()
	f()
}

// FromTap is the overlay's side sending a frame to the workload whose MAC it is
// for, or to all. frame is copied.
func (s *Switch) FromTap(frame []byte) {
	if len(frame) < ethLen {
		return
	}
	dst := tap.MAC(frame[:6])
	s.mu.Lock()
	var to []func([]byte)
	for _, p := range s.ports {
		if (p.mac == dst || dst.IsMulticast()) && p.deliver != nil {
			to = append(to, p.deliver)
		}
	}
	s.mu.Unlock()
	for _, deliver := range to {
		deliver(bytes.Clone(frame))
	}
}

// Counters is where frames went so far.
func (s *Switch) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// Rules lists what is in the switch, of all epochs, by epoch, direction and ID,
// without a connection.
func (s *Switch) Rules() []bypass.RuleStat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statsLocked(time.Now(), s.lag)
}

// Leases lists what is left of the live leases, by peer and protocol.
func (s *Switch) Leases() []bypass.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var list []bypass.Lease
	for k, l := range s.leases {
		l.Outbound = max(s.outGates[k.outGate].Sub(now), 0)
		l.Inbound = max(s.inGates[k.inGate].Sub(now), 0)
		if l.Outbound > 0 || l.Inbound > 0 {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b bypass.Lease) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Proto, b.Proto), a.Remote.Compare(b.Remote))
	})
	return list
}

// Base is the slow half that was set last; false if it has ended or there is none.
func (s *Switch) Base() (bypass.Base, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base, s.baseEnd.After(time.Now())
}

// takes tells whether frame is for this station, by its MAC or, if it was routed,
// by its address, and then gives it the uplink's MAC.
func (s *Switch) takes(frame []byte, routed bool) bool {
	dst := tap.MAC(frame[:6])
	if !routed {
		return dst == s.cfg.UplinkMAC || dst.IsMulticast()
	}
	if at, ok := locate(frame); !ok || !slices.Contains(s.cfg.Addrs, at.dst) {
		return false
	}
	copy(frame, s.cfg.UplinkMAC[:])
	return true
}

// receive is a frame, ours now, coming from the wire.
func (s *Switch) receive(frame []byte) {
	s.mu.Lock()
	d := decision{verdict: toHost}
	if p, ok := Parse(frame); ok {
		d = s.decideLocked(frameKey(0, p), func(now time.Time) decision {
			return s.inbound(now, p)
		})
		if u := s.cfg.Underlay; d.verdict == toHost && u != nil && p.Fragment == 0 &&
			u.guards(p.Flow.Src.Addr(), p.Flow.Dst.Port()) {
			d.verdict = toHostGuard
		}
	} else if m, ok := ParseICMP(frame); ok {
		s.errorLocked(m, frame)
	}
	f := s.executeLocked(d, frame)
	s.mu.Unlock()
	f()
}

// errorLocked sends up an ICMP error to a guarded address: the host gets it as well.
func (s *Switch) errorLocked(m ICMP, frame []byte) {
	now := time.Now()
	if m.VLAN == 0 && m.IsError() && s.guards(now, m.Dst) && s.errors.take(now) {
		s.counters.Errors++
		s.emitLocked(bypass.PacketIn{Kind: bypass.PacketError, Frame: frame})
	}
}

// executeLocked counts and rewrites frame as decided. What it returns completes
// the work, without the lock.
func (s *Switch) executeLocked(d decision, frame []byte) func() {
	c := &s.counters
	if d.rule != nil {
		d.rule.hit(len(frame), s.lag)
	}
	switch d.verdict {
	case toWire:
		c.Outbound++
		d.rewrite.apply(frame)
		return func() { s.wire.transmit(s, frame) }
	case toPort:
		c.Inbound++
		d.rewrite.apply(frame)
		return call(s.ports[d.port].deliver, frame)
	case toTap:
		c.Plain++
		return call(s.tap, frame)
	case toHost:
		c.Host++
		return call(s.host, frame)
	case toController:
		count := [...]*uint64{&c.Probe, &c.Orphan, &c.Guard}
		*count[min(d.kind, bypass.PacketGuard)]++
		if d.kind != bypass.PacketProbe {
			frame = frame[:min(len(frame), HeadersOnly)]
		}
		s.emitLocked(bypass.PacketIn{Kind: d.kind, Frame: frame})
	case toHostGuard:
		c.HostGuarded++
	case drop:
		c.Dropped++
	}
	return func() {}
}

func call(f func([]byte), frame []byte) func() {
	if f == nil {
		return func() {}
	}
	return func() { f(frame) }
}
