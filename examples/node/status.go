package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
)

// statusCommand prints what a running node says of itself.
func statusCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	set := flags("status", stderr)
	client := nodeFlags(set)
	asJSON := set.Bool("json", false, "print JSON")
	if err := parse(set, args, 0); err != nil {
		return err
	}
	c, err := client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	return printStatus(stdout, s)
}

func printDirectory(w io.Writer, d *nodeapi.Directory) {
	if d == nil {
		return
	}
	if d.Reason != "" {
		fmt.Fprintf(w, "directory: no answer since %s (links go on): %s\n", d.Since.Format(time.DateTime), d.Reason)
	} else {
		fmt.Fprintf(w, "directory: has %d of our endpoints, %d addresses are being looked for\n", d.Published, d.Searches)
	}
	for _, c := range d.Conflicts {
		what := c.MAC.String()
		if c.IP.IsValid() {
			what = c.IP.String()
		}
		fmt.Fprintf(w, "mind: %s is claimed by %s, too; %s came first and has it\n", what, c.Claimer, c.Holder)
	}
}

func printStatus(out io.Writer, s *nodeapi.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	state := "ready"
	if !s.Ready {
		state = "not ready: see its log"
	}
	fmt.Fprintf(w, "node %s\nnetwork %s, %s, pid %d, since %s, workloads' MTU %d\n", s.ID, s.Network, state, s.PID,
		s.Since.Format(time.DateTime), s.MTU)
	fmt.Fprintf(w, "policy: %s by default, %d rules\n", cmp.Or(s.Policy.Default, "overlay"), len(s.Policy.Rules))
	if m := s.Membership; m != nil {
		fmt.Fprintf(w, "member until %s\n", m.Until.Format(time.DateTime))
		for _, text := range m.Warnings {
			fmt.Fprintf(w, "mind: %s\n", text)
		}
	}
	printDirectory(w, s.Directory)
	if s.DNS.IsValid() {
		fmt.Fprintf(w, "names: NAME.%s. at %v\n", s.Network, s.DNS)
	}
	fmt.Fprintln(w, "\nPEER\tSTATE\tRTT\tPATH")
	for _, p := range s.Peers {
		rtt := "-"
		if p.RTTMicros > 0 {
			rtt = (time.Duration(p.RTTMicros) * time.Microsecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.State, rtt, cmp.Or(p.Path, p.Reason))
	}
	printLinks(w, s.Peers)
	fmt.Fprintln(w, "\nENDPOINT\tMAC\tIPS\tOFPORT\tKNOWN")
	for _, e := range s.Endpoints {
		name, ofport, known := e.Name, fmt.Sprint(e.Ofport), e.Known
		if !e.Peer.IsZero() {
			name, ofport, known = "of "+e.Peer.Short(), "-", "announced"
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\t%s\n", name, e.MAC, e.IPs, ofport, known)
	}
	printDiscovery(w, s.Discovery)
	fmt.Fprintln(w, "\nFLOW\tSTATE\tSINCE\tOVERLAY\tRULES\tWHY")
	for _, f := range s.Flows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d B\t%d B\t%s\n", f.Flow, f.State, f.Since.Format(time.TimeOnly), f.OverlayBytes, f.RuleBytes, why(f))
	}
	t := s.Stats
	fmt.Fprintf(w, "\ndevice: %d frames out, %d in; links: %d out, %d in; refused peers %d, dropped %d\n",
		t.DeviceOutFrames, t.DeviceInFrames, t.LinkOutDatagrams, t.LinkInDatagrams, t.Refused, t.Dropped)
	fmt.Fprintf(w, "socket: %d datagrams out by %d calls, %d in by %d; offloads: %s; missing: %s\n",
		t.Socket.OutDatagrams, t.Socket.OutCalls, t.Socket.InDatagrams, t.Socket.InCalls,
		cmp.Or(strings.Join(t.Offloads, " "), "none"), cmp.Or(strings.Join(t.Missing, " "), "none"))
	if d := words(t.TransportDrops); d != "" {
		fmt.Fprintln(w, "datagrams dropped:", d)
	}
	return w.Flush()
}

// printDiscovery prints what discovery makes of the bridge's ports.
func printDiscovery(w io.Writer, d *nodeapi.Discovery) {
	if d == nil {
		return
	}
	if !d.Found {
		fmt.Fprintln(w, "\ndiscovery: the bridge is not in the database, or the database is away")
		return
	}
	fmt.Fprintln(w, "\nPORT\tENDPOINT\tREFUSED\tFULL\tWHY")
	for _, p := range d.Ports {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", p.Port, cmp.Or(p.Endpoint, "-"), p.Refused, p.Full, p.Reason)
	}
}

// printLinks prints what the links count.
func printLinks(w io.Writer, peers []nodeapi.Peer) {
	fmt.Fprintln(w, "\nLINK\tMTU\tEPOCH\tPATHS\tOUT\tIN\tDROPPED")
	for _, p := range peers {
		if l := p.Link; l != nil {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d (%d B)\t%d (%d B)\t%s\n", p.Name, p.MTU, l.Epoch, l.Paths,
				l.OutDatagrams, l.OutBytes, l.InDatagrams, l.InBytes, cmp.Or(words(l.Drops), "-"))
		}
	}
}

// words lists counters by name.
func words(counters map[string]uint64) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		list = append(list, fmt.Sprintf("%s %d", name, counters[name]))
	}
	return strings.Join(list, ", ")
}

// why is the ports of a bypassed flow, or what keeps a flow from being bypassed, what
// would have to change, and when it is tried next.
func why(f nodeapi.Flow) string {
	words := f.Reason
	if f.Remedy != "" {
		words += " (" + f.Remedy + ")"
	}
	if time.Now().Before(f.RetryAt) {
		words += "; next try at " + f.RetryAt.Format(time.TimeOnly)
	}
	if f.Local.IsValid() {
		words = fmt.Sprintf("%v > %v %s", f.Local, f.Remote, words)
	}
	return words
}
