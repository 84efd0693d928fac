package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	fmt.Fprintln(w, "\nPEER\tSTATE\tRTT\tPATH")
	for _, p := range s.Peers {
		rtt := "-"
		if p.RTTMicros > 0 {
			rtt = (time.Duration(p.RTTMicros) * time.Microsecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.State, rtt, cmp.Or(p.Path, p.Reason))
	}
	fmt.Fprintln(w, "\nENDPOINT\tMAC\tIPS\tOFPORT")
	for _, e := range s.Endpoints {
		name, ofport := e.Name, fmt.Sprint(e.Ofport)
		if !e.Peer.IsZero() {
			name, ofport = "of "+e.Peer.Short(), "-"
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\n", name, e.MAC, e.IPs, ofport)
	}
	fmt.Fprintln(w, "\nFLOW\tSTATE\tSINCE\tOVERLAY\tRULES\tWHY")
	for _, f := range s.Flows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d B\t%d B\t%s\n", f.Flow, f.State, f.Since.Format(time.TimeOnly), f.OverlayBytes, f.RuleBytes, why(f))
	}
	t := s.Stats
	fmt.Fprintf(w, "\ndevice: %d frames out, %d in; links: %d out, %d in; refused peers %d, dropped %d\n",
		t.DeviceOutFrames, t.DeviceInFrames, t.LinkOutDatagrams, t.LinkInDatagrams, t.Refused, t.Dropped)
	return w.Flush()
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
