package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Page is how a Report is shown.
type Page struct {
	// Name of its files: Name.json, Name.md.
	Name string
	// Title, and About: lines that say what was compared.
	Title, About string
	// Plots of each mode in which their test was measured.
	Plots []Plot
	// Prefix begins the names of the plots' files.
	Prefix string
	// Shown has the plots in the text, each with Again: the command that makes the mode's.
	Shown bool
	Again func(mode string) string
	// Targets to hold it against; nil = none.
	Targets []Target
}

// Plot is a test's.
type Plot struct{ Test, Title string }

// Overlays is the page of the comparison of overlays.
func Overlays() Page {
	return Page{
		Name: "overlay", Title: "The overlay beside others", Targets: Targets(),
		About: "Two network namespaces, joined by a veth pair with an MTU of 1,500, both ends on the same processors. CPU is that of\n" +
			"both ends' tunnels, of iperf3 and of interrupts. `vias-dtls` is vias with a DTLS record for each packet;\n" +
			"`vias-relay` goes by a TURN server (coturn; its CPU counts) on a bridge between the two; `bound` is a prototype that does\n" +
			"nothing but super-frames, AES-128-GCM and UDP GSO, `bound-datagrams` the same with a record for each datagram. The last three\n" +
			"rows have another layout: containers on Open vSwitch in\n" +
			"user space (userspace-tso, receive buffers of 4 MB) on each host, whose CPU counts; there `native-ovs` is plain forwarding, `vias-ovs` the overlay, and\n" +
			"`bypass` what the switches carry without it. Where packets are lost, they are lost one by one on a bridge between the two, in\n" +
			"either direction; round trips take microseconds here, so TCP recovers faster than between any two real hosts.\n",
		Plots: []Plot{{TCP1, "TCP, one stream, Mbit/s"}, {TCP4, "TCP, four streams, Mbit/s"}, {TCP1CPU, "CPU seconds for each GB, one stream"},
			{UDPFlood, "UDP, 64 bytes, datagrams a second"}, {RTT50, "Round trip, median, µs"}},
	}
}

// Evaluation is the page of the paper's evaluation.
func Evaluation() Page {
	return Page{
		Name: "evaluation", Title: "The paper's evaluation", Prefix: "evaluation-", Shown: true,
		Again: func(mode string) string { return "go run ./bench/evaluate -out DIR -modes " + mode },
		About: "What Jeong and Figueiredo measured of VIAS (HPDC 2016), in their layout: hosts whose uplink, own port, containers and TAP are\n" +
			"ports of one Open vSwitch, with both hosts, their switches (3.1, datapath in user space with userspace-tso) and their containers\n" +
			"on the same processors. `native` is plain forwarding by the switches, `overlay` goes through both nodes, encrypted, and `bypass`\n" +
			"by rewriting in the switches. `overlay-beside` is the overlay with its own datagrams beside the switches (docs/datapaths.md says\n" +
			"how, and why it matters with this datapath). `hosts`, between clouds, is the hosts' own traffic on the same way. CPU is that of\n" +
			"nodes, switches, both ends' test programs and interrupts. A row counts only if the nodes' counters say that its bytes took its way.\n" +
			"UDP is the highest rate found at which 1 % is lost beside what the way loses. Setting up: connections are opened 16 at once, each\n" +
			"bypassed at its SYN, and held; then 20 more, one after the other. Compare rows of one table, not machines.\n",
		Plots: []Plot{{TCP1, "TCP, one stream, Mbit/s"}, {TCP4, "TCP, four streams, Mbit/s"}, {UDPBulk, "UDP, 1,200 bytes, Mbit/s"},
			{RTT50, "Round trip, median, µs"}, {TCP1CPU, "CPU seconds for each GB of TCP, one stream"}, {UDPBulkCPU, "CPU seconds for each GB of UDP"},
			{SetUp50, "From SYN to bypass, median, ms, by flows at once"}, {SetUpMore, "From SYN to bypass of one more flow, median, ms, by flows"},
			{SetUpSwitches, "CPU of both switches, µs a flow, by flows at once"}, {SetUpNodes, "CPU of both nodes, µs a flow, by flows at once"},
			{SetUpModRate, "Flow-mods a second, by flows at once"}},
	}
}

// file is the name of a plot's.
func (p Page) file(test, mode string) string {
	return p.Prefix + strings.ReplaceAll(test, ".", "-") + "-" + mode + ".svg"
}

// Write leaves r in a directory: its rows, the page and the plots. Without a directory it writes
// the page to out.
func (p Page) Write(r *Report, dir string, out io.Writer) error {
	if dir == "" {
		return r.WriteMarkdown(out, p)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := r.Save(filepath.Join(dir, p.Name+".json")); err != nil {
		return err
	}
	file := func(name string, f func(io.Writer) error) error {
		w, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		return errors.Join(f(w), w.Close())
	}
	errs := []error{file(p.Name+".md", func(w io.Writer) error { return r.WriteMarkdown(w, p) })}
	for _, mode := range r.Modes() {
		for _, x := range p.Plots {
			if !r.Has(mode, x.Test) {
				continue
			}
			draw := r.WriteSVG
			if mode == ModeSetUp {
				draw = r.WriteLine
			}
			errs = append(errs, file(p.file(x.Test, mode), func(w io.Writer) error { return draw(w, mode, x.Test, x.Title+" ("+mode+")") }))
		}
	}
	return errors.Join(errs...)
}

// writePlots shows a mode's plots.
func (r *Report) writePlots(b *strings.Builder, p Page, mode string) {
	if !p.Shown || !slices.ContainsFunc(p.Plots, func(x Plot) bool { return r.Has(mode, x.Test) }) {
		return
	}
	fmt.Fprintf(b, "\n    %s\n\n", p.Again(mode))
	for _, x := range p.Plots {
		if r.Has(mode, x.Test) {
			fmt.Fprintf(b, "![%s](%s)\n", x.Title, p.file(x.Test, mode))
		}
	}
}
