package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// columns of the table, in order.
var columns = [...]struct{ test, title string }{
	{TCP1, "TCP, 1 stream, Mbit/s"}, {TCP4, "4 streams"}, {TCP1CPU, "CPU s/GB (1)"}, {TCP4CPU, "CPU s/GB (4)"},
	{UDPFlood, "UDP 64 B, 1/s"}, {UDPLoss1, "at ≤ 1 % loss"}, {RTT50, "RTT p50, µs"}, {RTT99, "p99"}, {RSS, "RSS, MB"},
}

// WriteMarkdown writes the medians as tables, one a mode, with what they were taken on.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# The overlay beside others\n\nBegun %s; medians of %d rounds, peers by turns within each. %s.\n\n    %s\n",
		r.Began.UTC().Format("2006-01-02 15:04 MST"), r.Rounds(), r.Machine, r.Command)
	b.WriteString("\nTwo network namespaces, joined by a veth pair with an MTU of 1,500, both ends on the same processors. CPU is that of\n" +
		"both ends' tunnels, of iperf3 and of interrupts. `vias-dtls` is vias with a DTLS record for each packet; `bound` is a\n" +
		"prototype that does nothing but super-frames, AES-128-GCM and UDP GSO.\n")
	for _, mode := range r.Modes() {
		fmt.Fprintf(&b, "\n## %s\n\n| |", map[string]string{ModeDefault: "As the kernel makes it", ModeNIC: "No super-frames on the wire"}[mode])
		for _, c := range columns {
			b.WriteString(" " + c.title + " |")
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
		for _, peer := range r.Peers() {
			b.WriteString("| " + peer + " |")
			for _, c := range columns {
				b.WriteString(" " + r.cell(mode, peer, c.test) + " |")
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n## Versions\n\n")
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, "- %s: %s\n", name, r.Versions[name])
	}
	if len(r.Failed) > 0 {
		b.WriteString("\n## What failed\n\n")
		for _, f := range r.Failed {
			b.WriteString("- " + f + "\n")
		}
	}
	b.WriteString("\n## Targets\n\n```\n")
	WriteVerdicts(&b, r.Check(Targets()))
	b.WriteString("```\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) cell(mode, peer, test string) string {
	v, ok := r.Median(mode, peer, test)
	switch {
	case !ok:
		return ""
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	default:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
}
