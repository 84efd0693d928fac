package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// LatencyConfig says how latencies are measured.
type LatencyConfig struct {
	Rounds   int           // of ping-pong and first requests; 0 = 3
	Requests int           // first requests of each mode in a round; 0 = 50
	Rate     int           // short connections a second; 0 = 1000
	Duration time.Duration // of the short connections of each mode; 0 = 5 s
	// Progress is called with a line after each step; nil = not.
	Progress func(string)
}

func (c LatencyConfig) normal() LatencyConfig {
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.Requests == 0 {
		c.Requests = 50
	}
	if c.Rate == 0 {
		c.Rate = 1000
	}
	if c.Duration == 0 {
		c.Duration = 5 * time.Second
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c
}

// Trigger is when a connection asks for its bypass.
type Trigger int

// Triggers.
const (
	TriggerNative  Trigger = iota // none: plainly forwarded
	TriggerNever                  // none: it stays on the overlay
	TriggerLate                   // after 64 KiB
	TriggerSYN                    // at once
	triggersNumber                // how many there are
)

func (t Trigger) String() string {
	return [...]string{"native", "overlay only", "after 64 KB", "at the SYN"}[min(t, triggersNumber-1)]
}

// port is where the trigger's connections go, by which DefaultPolicy tells them apart.
func (t Trigger) port() uint16 { return [...]uint16{5501, 5502, 5204, 5503}[t] }

// mode is how its connections begin.
func (t Trigger) mode() Mode { return [...]Mode{Native, Overlay, Overlay, Bypass}[t] }

// Requests is what became of connections that sent one byte, had one back, and closed.
type Requests struct {
	Trigger Trigger
	RTT     // connect, byte, reply
	Done    int
	Errors  int
	Err     error   // the first of them
	Rate    float64 // done a second
	// SetUp is how many got a rule at the client's switch.
	SetUp int
	// TAPPackets went through the client's TAP, both ways, for each connection.
	TAPPackets float64
	// Dropped counts frames and datagrams that either node dropped meanwhile, for whatever
	// cause, and Repeated segments that either workload's TCP sent again: a SYN that was
	// lost on its way is among these, though its connection got through.
	Dropped, Repeated int
	// NodesMicros and SwitchesMicros are the CPU time of both hosts' nodes and
	// ovs-vswitchds for each connection.
	NodesMicros, SwitchesMicros float64
}

func newRequests(t Trigger, took []time.Duration, errs []error) Requests {
	r := Requests{Trigger: t, Done: len(took), Errors: len(errs)}
	if len(errs) > 0 {
		r.Err = errs[0]
	}
	if len(took) > 0 {
		slices.Sort(took)
		r.RTT = RTT{micros(took[len(took)/2]), micros(took[len(took)*99/100])}
	}
	return r
}

// check says why the connections did not go the way of their trigger; "" = they did.
func (r Requests) check() string {
	m := r.Trigger.mode()
	switch {
	case r.Errors > 0:
		return fmt.Sprintf("%d failed: %v", r.Errors, r.Err)
	case r.Done == 0:
		return "none were made"
	case m != Bypass && r.SetUp > 0:
		return fmt.Sprintf("%d were bypassed", r.SetUp)
	case m == Bypass && r.SetUp == 0:
		return "none were bypassed"
	case m == Overlay && r.TAPPackets < 6: // two handshake packets out, one back, data, FINs
		return fmt.Sprintf("the TAP moved %.1f packets for each", r.TAPPackets)
	case m == Native && r.TAPPackets > 1:
		return fmt.Sprintf("the TAP moved %.1f packets for each", r.TAPPackets)
	}
	return ""
}

// Latency is what was measured.
type Latency struct {
	// RTT has the medians over all rounds, by Mode.
	RTT   [modes]RTT
	First []Requests // one after the other
	Short []Requests // many at once
	Fails []string
}

// Ratio of the bypassed round trip's p50 to the native one's; 0 = not known.
func (l Latency) Ratio() float64 {
	if l.RTT[Native].P50Micros == 0 {
		return 0
	}
	return l.RTT[Bypass].P50Micros / l.RTT[Native].P50Micros
}

// Bound is what a first request may take, in µs: native + 3 ms + 2 overlay RTT.
func (l Latency) Bound() float64 {
	for _, r := range l.First {
		if r.Trigger == TriggerNative {
			return r.P50Micros + 3000 + 2*l.RTT[Overlay].P50Micros
		}
	}
	return 0
}

// Print writes the tables. Bounds are marked OK or FAIL.
func (l Latency) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "one connection\tRTT p50 µs\tRTT p99 µs")
	for m, r := range l.RTT {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\n", Mode(m), r.P50Micros, r.P99Micros)
	}
	_ = w.Flush()
	fmt.Fprintf(out, "bypass / native = %.3f (bound 1.05): %s\n\n", l.Ratio(), verdict(l.Ratio() > 0 && l.Ratio() <= 1.05))
	fmt.Fprintln(w, "first request\tp50 µs\tp99 µs\tbypassed\terrors\tTAP packets each")
	for _, r := range l.First {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%d of %d\t%d\t%.1f\n", r.Trigger, r.P50Micros, r.P99Micros, r.SetUp, r.Done, r.Errors, r.TAPPackets)
	}
	_ = w.Flush()
	for _, r := range l.First {
		if r.Trigger == TriggerSYN {
			fmt.Fprintf(out, "bound (native + 3 ms + 2 overlay RTT) = %.0f µs: p50 %s\n", l.Bound(), verdict(r.Done > 0 && r.P50Micros <= l.Bound()))
		}
	}
	fmt.Fprintln(out)
	fmt.Fprintln(w, "short connections\tdone/s\tp50 µs\tp99 µs\terrors\tdropped\tsent again\tbypassed\tTAP packets each\tnodes' CPU µs each\tswitches' CPU µs each")
	for _, r := range l.Short {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%d\t%d\t%d\t%d of %d\t%.1f\t%.0f\t%.0f\n", r.Trigger, r.Rate, r.P50Micros, r.P99Micros,
			r.Errors, r.Dropped, r.Repeated, r.SetUp, r.Done, r.TAPPackets, r.NodesMicros, r.SwitchesMicros)
	}
	_ = w.Flush()
	if len(l.Fails) > 0 {
		fmt.Fprintln(out, "FAIL "+strings.Join(l.Fails, "; "))
	}
}

func verdict(ok bool) string {
	if ok {
		return "OK"
	}
	return "FAIL"
}
