package vias

import (
	"github.com/viasnet/vias/internal/pump"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// Stats counts what a Network did since Run. Every frame is in it: forwarded, or
// dropped for a cause.
type Stats struct {
	// Sent came from the device, Received went to it. Sent includes what was then
	// dropped.
	Sent, Received Count
	// Flooded frames of the device went to every linked peer.
	Flooded uint64
	// Answered ARP requests and neighbour solicitations: see Config.Directory.
	Answered uint64
	// TooBig messages told workloads that their packets are longer than a peer's device
	// takes.
	TooBig uint64
	// Drops are the core's own.
	Drops Drops
	// Device drops are zero for a device that does not count (see tap.Counted).
	Device tap.Stats
	// Offload is what the device gives and takes whole; zero before Run.
	Offload tap.Caps
	// Transport is what the transport turned away, and how its datagrams go to the kernel.
	Transport overlay.TransportStats
	// Conflicts are announced addresses that were refused because somebody else
	// holds them.
	Conflicts uint64
	// Flows are tracked now; Evicted were forgotten to make room, and Untracked found
	// none. Neither was dropped.
	Flows              int
	Evicted, Untracked uint64
	// Held SYNs waited for a bypass; of these Injected went by it and Expired by the
	// overlay because it was not there in time.
	Held, Injected, Expired uint64
}

// Drops counts dropped frames by cause. Out: frames of the device; In: datagrams of
// links.
type Drops struct {
	OutMalformed uint64 // too short, or an offload that does not fit its headers
	OutSourceMAC uint64 // a source MAC that nobody attached, or a peer's
	OutSourceIP  uint64 // a source IP that is not the endpoint's
	OutLinkLocal uint64 // to 01:80:c2:00:00:0x, which no bridge forwards
	OutLocal     uint64 // to an endpoint of this node: the switch's job
	OutNoLink    uint64 // to a peer without a link
	OutNoPeers   uint64 // to flood, without any link
	OutTooLong   uint64 // longer than the peer's device takes: see Network.MTU and Stats.TooBig
	OutLinkError uint64 // the link ended meanwhile
	OutOpening   uint64 // a SYN of an endpoint that opens too much: see Config.OpenRate
	OutReleased  uint64 // a held SYN that could not be released
	InMalformed  uint64 // empty, or too short
	InKind       uint64 // of an unknown kind
	InEarly      uint64 // a frame before the peers had greeted
	InSourceMAC  uint64 // a source MAC that this peer did not announce
	InSourceIP   uint64 // a source IP that this peer did not announce for the MAC
	InLinkLocal  uint64 // to 01:80:c2:00:00:0x
	InNotHere    uint64 // to an endpoint of another peer: never from link to link
	InFragment   uint64 // a fragment of a frame that is malformed, or does not fit the others
	InLate       uint64 // a fragment that came twice, or when its frame had been given up
	InIncomplete uint64 // a frame of which a fragment did not come in time
	InCrowded    uint64 // a frame given up because fragments of later ones needed the room

	// With Config.Directory, out:
	OutUnresolved uint64 // to an address that nobody has, or to whose node no link came in time
	OutCrowded    uint64 // to an unknown address, and there was no room to wait
	OutLookups    uint64 // to an unknown address, of an endpoint that asks for too many
	OutBroadcast  uint64 // to a group, of an endpoint that sends too many
}

// Total is the sum of all causes.
func (d Drops) Total() uint64 {
	return d.OutMalformed + d.OutSourceMAC + d.OutSourceIP + d.OutLinkLocal + d.OutLocal + d.OutNoLink +
		d.OutNoPeers + d.OutTooLong + d.OutLinkError + d.OutOpening + d.OutReleased +
		d.OutUnresolved + d.OutCrowded + d.OutLookups + d.OutBroadcast + d.InMalformed + d.InKind + d.InEarly +
		d.InSourceMAC + d.InSourceIP + d.InLinkLocal + d.InNotHere + d.InFragment + d.InLate + d.InIncomplete + d.InCrowded
}

// Stats is a snapshot. Counters are read one after another, while frames pass.
func (n *Network) Stats() Stats {
	c := n.shared.Counters
	s := Stats{
		Sent:      Count{c.OutFrames.Load(), c.OutBytes.Load()},
		Received:  Count{c.InFrames.Load(), c.InBytes.Load()},
		Flooded:   c.Flooded.Load(),
		Answered:  c.Answered.Load(),
		TooBig:    c.TooBig.Load(),
		Drops:     drops(c),
		Conflicts: n.shared.Stations.Conflicts(),
		Flows:     n.shared.Flows.Len(),
		Evicted:   n.shared.Flows.Evicted(),
		Untracked: n.shared.Flows.Untracked(),
		Held:      c.Held.Load(),
		Injected:  c.Injected.Load(),
		Expired:   c.Expired.Load(),
	}
	if r := n.running.Load(); r != nil {
		s.Transport = r.transport.Stats()
		s.Offload = r.device.Caps()
		if d, ok := r.device.(tap.Counted); ok {
			s.Device = d.Stats()
		}
	}
	return s
}

func drops(c *pump.Counters) Drops {
	return Drops{
		OutMalformed: c.Dropped(pump.OutMalformed),
		OutSourceMAC: c.Dropped(pump.OutSourceMAC),
		OutSourceIP:  c.Dropped(pump.OutSourceIP),
		OutLinkLocal: c.Dropped(pump.OutLinkLocal),
		OutLocal:     c.Dropped(pump.OutLocal),
		OutNoLink:    c.Dropped(pump.OutNoLink),
		OutNoPeers:   c.Dropped(pump.OutNoPeers),
		OutTooLong:   c.Dropped(pump.OutTooLong),
		OutLinkError: c.Dropped(pump.OutLinkError),
		OutOpening:   c.Dropped(pump.OutOpening),
		OutReleased:  c.Dropped(pump.OutReleased),
		InMalformed:  c.Dropped(pump.InMalformed),
		InKind:       c.Dropped(pump.InKind),
		InEarly:      c.Dropped(pump.InEarly),
		InSourceMAC:  c.Dropped(pump.InSourceMAC),
		InSourceIP:   c.Dropped(pump.InSourceIP),
		InLinkLocal:  c.Dropped(pump.InLinkLocal),
		InNotHere:    c.Dropped(pump.InNotHere),
		InFragment:   c.Dropped(pump.InFragment),
		InLate:       c.Dropped(pump.InLate),
		InIncomplete: c.Dropped(pump.InIncomplete),
		InCrowded:    c.Dropped(pump.InCrowded),

		OutUnresolved: c.Dropped(pump.OutUnresolved),
		OutCrowded:    c.Dropped(pump.OutCrowded),
		OutLookups:    c.Dropped(pump.OutLookups),
		OutBroadcast:  c.Dropped(pump.OutBroadcast),
	}
}
