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
	{UDPFlood, "UDP 64 B, 1/s"}, {UDPLoss1, "at ≤ 1 % loss"}, {UDPBulk, "UDP 1,200 B, Mbit/s"}, {UDPBulkCPU, "CPU s/GB (UDP)"},
	{RTT50, "RTT p50, µs"}, {RTT99, "p99"}, {RSS, "RSS, MB"},
	{SetUpShare, "bypassed, %"}, {SetUp50, "SYN to bypass, p50, ms"}, {SetUp99, "p99"}, {SetUpMore, "one more, p50, ms"}, {SetUpRate, "flows/s"},
	{SetUpNodes, "CPU of nodes, µs a flow"}, {SetUpSwitches, "of switches"}, {SetUpMods, "flow-mods a flow"}, {SetUpModRate, "flow-mods/s"},
	{SetUpOuts, "packet-outs a flow"}, {SetUpIns, "packet-ins/s"},
}

// titles of the modes.
var titles = map[string]string{ModeDefault: "As the kernel makes it", ModeNIC: "No super-frames on the wire",
	ModeLoss1: "1 % of packets lost, and no super-frames on the wire", ModeLoss10: "10 % of packets lost, and no super-frames on the wire",
	ModeIntra: "Within a cloud", ModeInter: "Between two clouds: 20 ms, and 1 % of packets lost", ModeSetUp: "Setting up flows, by their number"}

// WriteMarkdown writes the medians as tables, one a mode, with what they were taken on.
func (r *Report) WriteMarkdown(w io.Writer, p Page) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nBegun %s; medians of %d rounds, peers by turns within each. %s.\n\n    %s\n\n%s",
		p.Title, r.Began.UTC().Format("2006-01-02 15:04 MST"), r.Rounds(), r.Machine, r.Command, p.About)
	if p.Shown {
		fmt.Fprintf(&b, "\nOther programs took %.2f processors meanwhile, by the median of all TCP tests, and %.2f at most.\n", r.foreign(0.5), r.foreign(1))
	}
	for _, mode := range r.Modes() {
		r.writeMode(&b, mode)
		r.writePlots(&b, p, mode)
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
	if p.Targets != nil {
		b.WriteString("\n## Targets\n\n```\n")
		WriteVerdicts(&b, r.Check(p.Targets))
		b.WriteString("```\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeMode writes a mode's table: what was measured of whom was.
func (r *Report) writeMode(b *strings.Builder, mode string) {
	fmt.Fprintf(b, "\n## %s\n\n| |", titles[mode])
	var tests []string
	for _, c := range columns {
		if r.Has(mode, c.test) {
			tests = append(tests, c.test)
			b.WriteString(" " + c.title + " |")
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(tests)) + "\n")
	for _, peer := range r.Peers() {
		if !slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Mode == mode && row.Peer == peer }) {
			continue
		}
		b.WriteString("| " + peer + " |")
		for _, test := range tests {
			b.WriteString(" " + r.cell(mode, peer, test) + " |")
		}
		b.WriteString("\n")
	}
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
