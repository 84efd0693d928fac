package ofctltest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// Config is what New makes a Switch of. The zero Config is a good switch.
type Config struct {
	// DatapathID is what Features reports.
	DatapathID uint64
	// LocalName and LocalMAC are those of the LOCAL port; "local" and
	// 02:00:00:00:00:fe when empty.
	LocalName string
	LocalMAC  [6]byte
	// Lacks are capabilities that the switch shall be without: it does not report
	// them, and refuses matches that need them.
	Lacks ofctl.Capabilities
}

// Port is one port of a Switch.
type Port struct {
	// No is its ofport; 0 lets AddPort choose the lowest that is free.
	No uint32
	// Name and MAC are what ofctl.Port shows.
	Name string
	MAC  [6]byte
	// Tag makes it an access port of this VLAN, for NORMAL; 0 = a trunk.
	Tag uint16
	// Trunks are the VLANs of a trunk port, 0 being untagged frames; nil = all.
	Trunks []uint16
	// Down and NoLink, NoReceive and NoForward are as in ofctl.Port. No frame passes the
	// former.
	Down, NoLink, NoReceive, NoForward bool
	// Output gets every frame that leaves the switch by this port, in the
	// goroutine that caused it and without a lock. The frame is the receiver's to
	// keep. It may call Input of this or another switch; who wires switches into a
	// loop gets endless recursion. nil drops.
	Output func(frame []byte)
}

// port is a Port as the switch keeps it.
type port struct {
	Port
	count ofctl.PortStat
	made  time.Time
}

// Switch is an OpenFlow switch in memory. Make it with New. All methods may be
// called by several goroutines at once.
//
// As an ofctl.Switch it is a connection to itself that is made anew when it is
// lost: after Disconnect or Restart, calls that were under way end as on a lost
// connection, later ones work. Use Connect for connections that stay lost.
type Switch struct {
	cfg Config

	// mu serialises everything: frames, modifications, dumps, time-outs. Frames are
	// delivered and events handed to watchers without it.
	mu     sync.Mutex
	ports  map[uint32]*port
	tables tables
	macs   map[station]sighting
	cache  cache
	faults faults
	roles  roles
	conns  map[*Conn]struct{}
	self   *Conn
	closed bool
}

// New makes a switch with a LOCAL port and empty tables: it drops every frame. It
// has no goroutine; timers of flows run until Close.
func New(cfg Config) *Switch {
	if cfg.LocalName == "" {
		cfg.LocalName = "local"
	}
	if cfg.LocalMAC == [6]byte{} {
		cfg.LocalMAC = [6]byte{5: 0xfe, 0: 0x02}
	}
	s := &Switch{
		cfg:   cfg,
		ports: make(map[uint32]*port),
		macs:  make(map[station]sighting),
		conns: make(map[*Conn]struct{}),
	}
	s.tables.groups, s.tables.meters = make(map[uint32]ofctl.Group), make(map[uint32]*meter)
	s.ports[ofctl.PortLocal] = &port{Port: Port{No: ofctl.PortLocal, Name: cfg.LocalName, MAC: cfg.LocalMAC}, made: time.Now()}
	s.self = s.connectLocked()
	return s
}

// AddPort adds a port, tells the watchers, and returns its ofport. With No =
// PortLocal it replaces the LOCAL port, keeping name and MAC where p has none.
func (s *Switch) AddPort(p Port) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := ofctl.PortAdded
	switch {
	case s.closed:
		return 0, fmt.Errorf("ofctltest: add port %q: %w", p.Name, ofctl.ErrClosed)
	case p.No == ofctl.PortLocal:
		why = ofctl.PortModified
		if p.Name == "" {
			p.Name = s.cfg.LocalName
		}
		if p.MAC == [6]byte{} {
			p.MAC = s.cfg.LocalMAC
		}
	case p.No == 0:
		for p.No = 1; s.ports[p.No] != nil; {
			p.No++
		}
	case p.No >= 0xff00:
		return 0, fmt.Errorf("ofctltest: add port %q: %d is no ofport", p.Name, p.No)
	case s.ports[p.No] != nil:
		return 0, fmt.Errorf("ofctltest: add port %q: ofport %d is taken", p.Name, p.No)
	}
	p.Trunks = slices.Clone(p.Trunks)
	s.ports[p.No] = &port{Port: p, made: time.Now()}
	s.portChangedLocked(why, s.ports[p.No])
	return p.No, nil
}

// RemovePort removes a port and what was learnt on it, and tells the watchers.
// Flows that name it stay. It tells whether there was one.
func (s *Switch) RemovePort(ofport uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[ofport]
	if p == nil || ofport == ofctl.PortLocal {
		return false
	}
	delete(s.ports, ofport)
	maps.DeleteFunc(s.macs, func(_ station, seen sighting) bool { return seen.port == ofport })
	s.portChangedLocked(ofctl.PortDeleted, p)
	return true
}

// SetPort changes a port in place (all but its ofport) and tells the watchers. It
// tells whether there was one. f must not call the Switch.
func (s *Switch) SetPort(ofport uint32, f func(*Port)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[ofport]
	if p == nil {
		return false
	}
	f(&p.Port)
	p.No = ofport
	s.portChangedLocked(ofctl.PortModified, p)
	return true
}

func (s *Switch) portChangedLocked(why ofctl.PortReason, p *port) {
	s.cache.changed(time.Now())
	s.eventLocked(ofctl.PortStatus{Reason: why, Port: p.desc()})
}

func (p *port) desc() ofctl.Port {
	return ofctl.Port{No: p.No, Name: p.Name, MAC: p.MAC, Down: p.Down, NoLink: p.NoLink,
		NoReceive: p.NoReceive, NoForward: p.NoForward, Live: !p.Down && !p.NoLink}
}

// portNumbersLocked in rising order, so that floods are the same every time.
func (s *Switch) portNumbersLocked() []uint32 { return slices.Sorted(maps.Keys(s.ports)) }

// Input is a frame that comes in by a port. It returns when the frame has left the
// switch. frame is neither kept nor written to. A port that is down or not there,
// or a frame shorter than an Ethernet header, is nothing.
func (s *Switch) Input(ofport uint32, frame []byte) {
	s.mu.Lock()
	out := s.inputLocked(ofport, frame)
	s.mu.Unlock()
	deliver(out)
}

func (s *Switch) inputLocked(ofport uint32, frame []byte) []delivery {
	p := s.ports[ofport]
	if p == nil || p.Down || p.NoReceive || s.closed || len(frame) < ethLen {
		return nil
	}
	p.count.RxPackets++
	p.count.RxBytes += uint64(len(frame))
	r := run{sw: s, p: newPacket(frame, ofport), now: time.Now(), size: len(frame)}
	k := r.p.key
	if d := s.cache.find(&k, r.now); d != nil {
		r.replay(d.steps)
		return r.out
	}
	r.recording = s.cache.lag > 0
	r.pipeline(0)
	r.finish()
	if r.recording {
		s.cache.keep(&k, r.trace)
	}
	return r.out
}

func deliver(out []delivery) {
	for _, d := range out {
		d.to(d.frame)
	}
}

// packetOut executes p, as Switch.PacketOut of a connection.
func (s *Switch) packetOut(p ofctl.PacketOut) *ofctl.SwitchError {
	if p.InPort == 0 {
		p.InPort = ofctl.PortController
	}
	s.mu.Lock()
	c := actionCheck{groups: s.tables.groups, free: true}
	if err := c.list(p.Actions); err != nil {
		s.mu.Unlock()
		return err
	}
	var out []delivery
	if len(p.Frame) >= ethLen {
		r := run{sw: s, p: newPacket(p.Frame, p.InPort), now: time.Now(), size: len(p.Frame)}
		r.apply(p.Actions)
		r.finish()
		out = r.out
	}
	s.mu.Unlock()
	deliver(out)
	return nil
}

// Close ends all connections and timers. Frames are dropped from now on.
func (s *Switch) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.wipeLocked()
	s.disconnectLocked()
	return nil
}

// wipeLocked forgets all that controllers programmed and frames taught.
func (s *Switch) wipeLocked() {
	for _, f := range s.tables.every() {
		f.gone = true
		f.stopTimer()
	}
	s.tables = tables{groups: make(map[uint32]ofctl.Group), meters: make(map[uint32]*meter)}
	clear(s.macs)
	clear(s.cache.decisions)
}
