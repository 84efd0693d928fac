package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/viasnet/vias/internal/lab/nat"
	"github.com/viasnet/vias/internal/nodecfg"
)

// CloudsConfig is a run of Clouds.
type CloudsConfig struct {
	// Prefix, Root, Datapath, MaxRTT and Logger as in Config.
	Prefix, Root string
	Datapath     Datapath
	MaxRTT       time.Duration
	Logger       *slog.Logger
	// Program is what each host runs: examples/node.
	Program string
	// Settle is how long everything must stay as it should be in each stage; 0 = 5 s.
	Settle time.Duration
	// Burst is how long each pair sends as fast as it can, at the end; 0 = 1 s.
	Burst time.Duration
	// Every is when a pair sends its next chunk of 4 KB, each way; 0 = 20 ms, 1.6 Mbit/s.
	Every time.Duration
	// Show is told how all pairs talk, twice a second, and what the stage is; nil = not.
	Show func(stage string, pairs []CloudPair)
	// Progress is told what happens, a line each; nil = not.
	Progress func(string)
	// Kept is called with the lab before it is removed, once all was as it should be; nil = not.
	Kept func(*Lab)
}

func (c CloudsConfig) normal() CloudsConfig {
	if c.Settle == 0 {
		c.Settle = 5 * time.Second
	}
	if c.Burst == 0 {
		c.Burst = time.Second
	}
	if c.Every == 0 {
		c.Every = 20 * time.Millisecond
	}
	if c.Show == nil {
		c.Show = func(string, []CloudPair) {}
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c
}

// Places of hosts.
const (
	CloudA = "cloud A"
	CloudB = "cloud B"
	Home   = "home"
)

// cloudSites are cloud A, one subnet; cloud B, two subnets behind one router, of which the first has the
// range of cloud A; and a home. Hosts 1 and 5 are in A, 2 and 3 in B, 4 is at home.
func cloudSites() []Site {
	private := netip.MustParsePrefix("10.99.0.0/24")
	routes := portRestricted
	routes.Routes, routes.Filtering = true, nat.EndpointIndependent
	return []Site{
		{Prefix: private, Outside: netip.MustParsePrefix("203.0.113.1/24"), NAT: &portRestricted},
		{Prefix: private, Outside: netip.MustParsePrefix("198.51.100.1/24"), NAT: &routes},
		{Prefix: netip.MustParsePrefix("10.99.1.0/24"), Behind: 2},
		{Prefix: netip.MustParsePrefix("192.168.1.0/24"), Outside: netip.MustParsePrefix("192.0.2.1/24"), NAT: &symmetricNAT},
	}
}

// placeOf is where a host is.
func placeOf(host int) string { return []string{CloudA, CloudB, CloudB, Home}[(host-1)%4] }

// cloudTrust is what a host's node is told of its provider: cloud B declares that its two subnets
// are one domain.
func cloudTrust(host int, rtt time.Duration) nodecfg.Trust {
	t := nodecfg.Trust{MaxRTT: nodecfg.Duration(rtt)}
	if placeOf(host) == CloudB {
		sites := cloudSites()
		t.Domain, t.MaxHops, t.Prefixes = "cloud-b", 1, []netip.Prefix{sites[1].Prefix, sites[2].Prefix}
	}
	return t
}

func (c CloudsConfig) lab() Config {
	return Config{Prefix: c.Prefix, Root: c.Root, Datapath: c.Datapath, MaxRTT: c.MaxRTT, Logger: c.Logger, Hosts: 5, Sites: cloudSites()}
}

// Paths of a CloudPair.
const (
	PathBypass = "bypass" // natively, by the rules of both switches
	PathDirect = "direct" // encrypted, from host to host
	PathRelay  = "relay"  // encrypted, by a relay
	PathSwitch = "switch" // both are on one host
	PathNone   = "none"   // none that the nodes know
)

// CloudPair is how two containers talk over one TCP connection.
type CloudPair struct {
	From, To string // containers
	At       [2]int // their hosts
	Path     string
	// Why is the node's reason for the overlay, or what the bypass runs between.
	Why string
	// RTT is as the connection's TCP sees it.
	RTT time.Duration
	// Mbps arrived lately, and at a burst in the end, in the direction that had less.
	Mbps, Burst float64
	// Bytes arrived since the stage began, in the direction that had less.
	Bytes uint64
	// Gap is the longest time in which nothing arrived, in either direction.
	Gap time.Duration
	// Broken is why the connection ended; "" = it lives.
	Broken string
}

func (p CloudPair) String() string { return p.From + " to " + p.To }

// allowed are the paths that a pair may have.
func (p CloudPair) allowed() []string {
	a, b := placeOf(p.At[0]), placeOf(p.At[1])
	switch {
	case p.At[0] == p.At[1]:
		return []string{PathSwitch}
	case a == b:
		return []string{PathBypass}
	case slices.Contains([]string{a, b}, Home) && slices.Contains([]string{a, b}, CloudA):
		return []string{PathDirect, PathRelay} // symmetric and port-restricted
	}
	return []string{PathDirect}
}

// cloudBytes must have arrived of each pair in a stage.
const cloudBytes = 64 << 10

// wrong says what of a pair is not as it should be; "" = nothing.
func (p CloudPair) wrong() string {
	want := p.allowed()
	switch {
	case p.Broken != "":
		return fmt.Sprintf("%v: the connection ended: %s", p, p.Broken)
	case !slices.Contains(want, p.Path):
		return fmt.Sprintf("%v: the path is %s, want %s (%s)", p, p.Path, strings.Join(want, " or "), p.Why)
	case p.Bytes < cloudBytes:
		return fmt.Sprintf("%v: %d bytes have arrived in this stage, want %d", p, p.Bytes, cloudBytes)
	}
	return ""
}

// wrongPairs says what of any pair is not as it should be; nil = nothing.
func wrongPairs(pairs []CloudPair) error {
	var errs []error
	for _, p := range pairs {
		if why := p.wrong(); why != "" {
			errs = append(errs, errors.New(why))
		}
	}
	return errors.Join(errs...)
}

// CloudStage is what was so at the end of a stage.
type CloudStage struct {
	Name string
	// Took is how long it was until everything was as it should be.
	Took  time.Duration
	Pairs []CloudPair
}

// CloudsReport is what a run came to.
type CloudsReport struct {
	Stages []CloudStage
	// Outside and Inside are frames with a connection's marker in clear: on all links between
	// clouds and at home, where none may be, and on the clouds' own, where those of bypassed flows are.
	Outside, Inside int
	// Frames that were looked at.
	Frames int
	// Carried are bytes that arrived, both ways, with the right checksums.
	Carried uint64
	// Error is what was not as it should be; "" = nothing.
	Error string `json:",omitempty"`
}

// Save writes it as JSON.
func (r CloudsReport) Save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(b, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("lab: clouds: %w", err)
	}
	return nil
}

// WriteClouds writes how pairs talk, as a matrix: path, round trip and Mbit/s, and below it why. Rows and
// columns are containers, each with its host and place.
func WriteClouds(out io.Writer, pairs []CloudPair) {
	names, places := containersOf(pairs)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\t")
	for _, n := range names {
		fmt.Fprintf(w, "\t%s", n)
	}
	fmt.Fprintln(w)
	for i, a := range names {
		fmt.Fprintf(w, "%s\t%s", a, places[a])
		for k, b := range names {
			cell := "·"
			if i < k {
				cell = ""
			}
			for _, p := range pairs {
				if i < k && (p.From == a && p.To == b || p.From == b && p.To == a) {
					cell = p.cell()
				}
			}
			fmt.Fprintf(w, "\t%s", cell)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	writeWhys(out, pairs)
}

// containersOf lists containers in order, and where they are.
func containersOf(pairs []CloudPair) (names []string, places map[string]string) {
	places = map[string]string{}
	for _, p := range pairs {
		for i, n := range []string{p.From, p.To} {
			places[n] = fmt.Sprintf("host %d, %s", p.At[i], placeOf(p.At[i]))
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	return names, places
}

func (p CloudPair) cell() string {
	speed := p.Mbps
	if p.Burst > 0 {
		speed = p.Burst
	}
	s := fmt.Sprintf("%s %.2f ms", p.Path, p.RTT.Seconds()*1000)
	switch {
	case p.Broken != "":
		return "broken"
	case p.Path == PathNone:
		return "-"
	case speed >= 10:
		return s + fmt.Sprintf(" %.0f", speed)
	}
	return s + fmt.Sprintf(" %.1f", speed)
}

// writeWhys gives each reason once, with whom it is for.
func writeWhys(out io.Writer, pairs []CloudPair) {
	var whys []string
	who := map[string][]string{}
	for _, p := range pairs {
		why := p.Path
		if p.Why != "" {
			why += ": " + p.Why
		}
		if p.Broken != "" {
			why = "broken: " + p.Broken
		}
		if !slices.Contains(whys, why) {
			whys = append(whys, why)
		}
		who[why] = append(who[why], p.From+"-"+p.To)
	}
	slices.Sort(whys)
	for _, why := range whys {
		fmt.Fprintf(out, "%s  %s\n", strings.Join(who[why], " "), why)
	}
}
