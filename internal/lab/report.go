package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Mode is a way that a measurement's packets take.
type Mode int

// Modes.
const (
	Native  Mode = iota // the same switches, plain forwarding
	Overlay             // encrypted, through the nodes
	Bypass              // rewritten in the switches
	modes
)

func (m Mode) String() string { return [...]string{"native", "overlay", "bypass"}[min(m, modes-1)] }

// Each mode has ports of its own, which DefaultPolicy tells apart.
func (m Mode) iperfPort() uint16 { return 5201 + uint16(m) }
func (m Mode) pingPort() uint16  { return 5301 + uint16(m) }

// streamPort is where a connection is tried before another is measured.
func (m Mode) streamPort() uint16 { return 5401 + uint16(m) }

// Sample is one round of one mode.
type Sample struct {
	Mbps  float64
	RTT   RTT
	Proof Proof
	// Fail says why the sample does not count; "" = it does.
	Fail string
}

// Row is one mode's medians.
type Row struct {
	Mode    string  `json:"mode"`
	TCPMbps float64 `json:"tcp_mbps"`
	P50     float64 `json:"rtt_p50_us"`
	P99     float64 `json:"rtt_p99_us"`

	proof string
	fails []string
}

// Report is the lab's result. Its JSON form holds the rows that count only.
type Report struct {
	Rows []Row `json:"rows"`
	// BypassNativeRatio of the throughputs; 0 when either row is missing or failed.
	BypassNativeRatio float64           `json:"bypass_native_ratio"`
	Machine           map[string]string `json:"machine"`
}

// newReport makes rows of samples, by mode, in the order of modes.
func newReport(samples map[Mode][]Sample, machine map[string]string) Report {
	r := Report{Rows: []Row{}, Machine: machine}
	value := map[Mode]float64{}
	for m := range modes {
		if len(samples[m]) == 0 {
			continue
		}
		row := Row{Mode: m.String()}
		var mbps, p50, p99 []float64
		for i, s := range samples[m] {
			if s.Fail != "" {
				row.fails = append(row.fails, fmt.Sprintf("round %d: %s", i+1, s.Fail))
			}
			mbps, p50, p99 = append(mbps, s.Mbps), append(p50, s.RTT.P50Micros), append(p99, s.RTT.P99Micros)
			row.proof = s.Proof.String()
		}
		row.TCPMbps, row.P50, row.P99 = median(mbps), median(p50), median(p99)
		if len(row.fails) == 0 {
			value[m] = row.TCPMbps
		}
		r.Rows = append(r.Rows, row)
	}
	if value[Native] > 0 {
		r.BypassNativeRatio = value[Bypass] / value[Native]
	}
	return r
}

// median of values; 0 when there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Failed tells whether a row does not count.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool { return len(row.fails) > 0 })
}

// Counting is r without the rows that failed: what may be quoted.
func (r Report) Counting() Report {
	r.Rows = slices.DeleteFunc(slices.Clone(r.Rows), func(row Row) bool { return len(row.fails) > 0 })
	return r
}

// Print writes the table.
func (r Report) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "mode\tTCP Mbit/s\tRTT p50 µs\tRTT p99 µs\tproof (share of iperf3's bytes)")
	for _, row := range r.Rows {
		if len(row.fails) > 0 {
			fmt.Fprintf(w, "%s\tFAIL\t-\t-\t%s\n", row.Mode, strings.Join(row.fails, "; "))
			continue
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.1f\t%s\n", row.Mode, row.TCPMbps, row.P50, row.P99, row.proof)
	}
	_ = w.Flush()
	if r.BypassNativeRatio > 0 {
		fmt.Fprintf(out, "bypass / native = %.2f\n", r.BypassNativeRatio)
	}
}
