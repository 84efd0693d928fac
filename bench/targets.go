package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Peers that targets are about.
const (
	Vias      = "vias"
	WireGuard = "wireguard-go"
	Nebula    = "nebula"
	OpenVPN   = "openvpn"
	Bypass    = "bypass"
	Bound     = "bound" // what super-frames, AES-GCM and UDP GSO give, and nothing else
)

// Target is something that vias wants to reach: a ratio to another peer's figure, or, with
// no Peer, a bound on its own.
type Target struct {
	Mode, Test, Peer string
	// Least and Most bound the ratio, or the figure; 0 = none.
	Least, Most float64
}

// Targets of the overlay.
func Targets() []Target {
	return []Target{
		{Mode: ModeDefault, Test: TCP1, Peer: WireGuard, Least: 1.6},
		{Mode: ModeDefault, Test: TCP4, Peer: WireGuard, Least: 1.6},
		{Mode: ModeDefault, Test: TCP1, Peer: Bound, Least: 0.85},
		{Mode: ModeDefault, Test: TCP4, Peer: Bound, Least: 0.85},
		{Mode: ModeDefault, Test: TCP1CPU, Peer: WireGuard, Most: 0.6},
		{Mode: ModeDefault, Test: TCP4CPU, Peer: WireGuard, Most: 0.6},
		{Mode: ModeNIC, Test: TCP1, Peer: WireGuard, Least: 1.5},
		{Mode: ModeNIC, Test: TCP4, Peer: WireGuard, Least: 1.5},
		{Mode: ModeDefault, Test: UDPFlood, Peer: Nebula, Least: 1.2},
		{Mode: ModeDefault, Test: RTT50, Peer: OpenVPN, Most: 1},
		{Mode: ModeDefault, Test: RSS, Most: 64},
	}
}

// Verdict is what became of a Target.
type Verdict struct {
	Target
	Ours, Theirs float64
	Ratio        float64 // or the figure
	// Missing says which figure there is none of; "" = all are there.
	Missing string
}

// Met tells whether the target is reached.
func (v Verdict) Met() bool {
	return v.Missing == "" && v.Ratio >= v.Least && (v.Most == 0 || v.Ratio <= v.Most)
}

// Check holds the medians against the targets.
func (r *Report) Check(targets []Target) []Verdict {
	list := make([]Verdict, 0, len(targets))
	for _, t := range targets {
		v := Verdict{Target: t}
		var ok bool
		if v.Ours, ok = r.Median(t.Mode, Vias, t.Test); !ok {
			v.Missing = Vias
		}
		v.Ratio = v.Ours
		if t.Peer != "" {
			if v.Theirs, ok = r.Median(t.Mode, t.Peer, t.Test); !ok || v.Theirs <= 0 {
				v.Missing = t.Peer
			} else {
				v.Ratio = v.Ours / v.Theirs
			}
		}
		list = append(list, v)
	}
	return list
}

// Summary says of how many targets what became.
func Summary(list []Verdict) string {
	var met, missed, unknown int
	for _, v := range list {
		switch {
		case v.Missing != "":
			unknown++
		case v.Met():
			met++
		default:
			missed++
		}
	}
	return fmt.Sprintf("%d targets: %d met, %d missed, %d without a figure", len(list), met, missed, unknown)
}

// WriteVerdicts prints them, and tells whether all targets are met.
func WriteVerdicts(w io.Writer, list []Verdict) (all bool) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "mode\ttest\tvias\tbeside\tfigure\tratio\ttarget\t")
	all = true
	for _, v := range list {
		target := fmt.Sprintf(">= %g", v.Least)
		if v.Most > 0 {
			target = fmt.Sprintf("<= %g", v.Most)
		}
		said := "met"
		switch {
		case v.Missing != "":
			said = "no figure of " + v.Missing
		case !v.Met():
			said = "MISSED"
		}
		all = all && v.Met()
		peer, theirs := v.Peer, fmt.Sprintf("%.4g", v.Theirs)
		if peer == "" {
			peer, theirs = "-", "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.4g\t%s\t%s\t%.2f\t%s\t%s\n", v.Mode, v.Test, v.Ours, peer, theirs, v.Ratio, target, said)
	}
	_ = tw.Flush()
	fmt.Fprintln(w, Summary(list))
	return all
}
