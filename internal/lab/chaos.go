package lab

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/viasnet/vias/internal/lab/chaos"
	"github.com/viasnet/vias/internal/lab/nat"
)

// ChaosConfig is a run of Chaos.
type ChaosConfig struct {
	// Prefix, Root, Datapath and MaxRTT as in Config.
	Prefix, Root string
	Datapath     Datapath
	MaxRTT       time.Duration
	// Program is what each host runs: examples/node.
	Program string
	// Seed draws what happens.
	Seed uint64
	// Duration, Storms and Storm as in chaos.Config. A node stays away for longer than connections
	// wait only in runs of two minutes or more.
	Duration, Storm time.Duration
	Storms          int
	// Progress is told what happens, a line each; nil = not.
	Progress func(string)
}

// ChaosReport is what a run came to.
type ChaosReport struct {
	chaos.Report
	// Outside and Inside are frames with a transfer's marker in clear: on all links between
	// clouds, where none may be, and on the clouds' own, where those of bypassed flows are.
	Outside, Inside int
	// Frames that were looked at.
	Frames int
	// Paths are how the nodes were linked at the end.
	Paths []string
}

// Print writes all of it.
func (r ChaosReport) Print(out io.Writer) {
	r.Report.Print(out)
	for _, p := range r.Paths {
		fmt.Fprintln(out, "at the end:", p)
	}
	fmt.Fprintf(out, "%d frames looked at: the marker was in clear in %d inside of clouds, and in %d outside\n", r.Frames, r.Inside, r.Outside)
}

// chaosPatience is how long the transfers' connections wait for an answer.
const chaosPatience = 30 * time.Second

// The kinds of NAT in chaos: one end behind each, and what each becomes for a while.
var (
	portRestricted = nat.Router{Filtering: nat.AddressAndPortDependent}
	fullCone       = nat.Router{}
	symmetricNAT   = nat.Router{Mapping: nat.AddressAndPortDependent, Filtering: nat.AddressAndPortDependent}
)

// chaosSites are two clouds with the same private range, and a home. Hosts 1 and 4 are in
// the first, 2 and 5 in the second, 3 is at home.
func chaosSites() []Site {
	private, home := netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("192.168.1.0/24")
	return []Site{
		{Prefix: private, Outside: netip.MustParsePrefix("203.0.113.1/24"), NAT: &portRestricted},
		{Prefix: private, Outside: netip.MustParsePrefix("198.51.100.1/24"), NAT: &fullCone},
		{Prefix: home, Outside: netip.MustParsePrefix("192.0.2.1/24"), NAT: &symmetricNAT},
	}
}

// chaosPairs are the hosts whose containers have a transfer. Those of one cloud are
// bypassed.
var chaosPairs = []struct {
	a, b int
	kind Kind
}{
	{1, 4, Kind{}}, {2, 5, Kind{}}, {4, 1, Kind{IPv6: true}}, {1, 2, Kind{}}, {3, 1, Kind{}}, {5, 3, Kind{IPv6: true}},
}

// lab is where a run takes place.
func (c ChaosConfig) lab() Config {
	return Config{Prefix: c.Prefix, Root: c.Root, Datapath: c.Datapath, MaxRTT: c.MaxRTT, Hosts: 5, Sites: chaosSites()}
}
