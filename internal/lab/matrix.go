package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// MatrixConfig says how each kind of traffic is measured.
type MatrixConfig struct {
	Duration time.Duration // of each measurement, whole seconds; 0 = 2 s
	Rounds   int           // 0 = 3
	// UDPRate is how many datagrams of 1,200 bytes are sent a second, each way; 0 = 4,000,
	// which is 38 Mbit/s.
	UDPRate int
	// Progress is called after each cell of a round; nil = not.
	Progress func(round int, k Kind, m Mode, c Cell)
}

func (c MatrixConfig) normal() MatrixConfig {
	if c.Duration == 0 {
		c.Duration = 2 * time.Second
	}
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.UDPRate == 0 {
		c.UDPRate = 4000
	}
	return c
}

// Cell is one kind of traffic, measured once in one mode.
type Cell struct {
	// Mbps is what arrived at the server, without headers.
	Mbps float64
	// Lost is the share of the datagrams of both directions that did not arrive.
	Lost  float64
	Proof Proof
	// Fail says why the cell does not count; "" = it does.
	Fail string
}

// MatrixRow is one kind of traffic on one datapath: the medians of all modes.
type MatrixRow struct {
	Datapath Datapath
	Kind     Kind
	// Cells are the medians of each mode. Where one round failed the cell does, with
	// all that is known of it.
	Cells [modes]Cell
}

// newRow makes a row of each mode's cells.
func newRow(d Datapath, k Kind, rounds [modes][]Cell) MatrixRow {
	r := MatrixRow{Datapath: d, Kind: k}
	for m, cells := range rounds {
		var mbps, lost []float64
		var fails []string
		for i, c := range cells {
			if c.Fail != "" {
				fails = append(fails, fmt.Sprintf("%s, round %d: %s", Mode(m), i+1, c.Fail))
			}
			mbps, lost = append(mbps, c.Mbps), append(lost, c.Lost)
			r.Cells[m].Proof = c.Proof
		}
		if len(cells) == 0 {
			fails = append(fails, Mode(m).String()+": not measured")
		}
		r.Cells[m].Mbps, r.Cells[m].Lost, r.Cells[m].Fail = median(mbps), median(lost), strings.Join(fails, "; ")
	}
	return r
}

// fails says why the row does not count; "" = it does.
func (r MatrixRow) fails() string {
	var all []string
	for _, c := range r.Cells {
		if c.Fail != "" {
			all = append(all, c.Fail)
		}
	}
	return strings.Join(all, "; ")
}

// Ratio is bypass by native; 0 = one of them failed or moved nothing.
func (r MatrixRow) Ratio() float64 {
	n, b := r.Cells[Native], r.Cells[Bypass]
	if n.Fail != "" || b.Fail != "" || n.Mbps == 0 {
		return 0
	}
	return b.Mbps / n.Mbps
}

// Matrix is all kinds of traffic on some datapaths.
type Matrix []MatrixRow

// Failed tells whether a row does not count.
func (m Matrix) Failed() bool {
	return slices.ContainsFunc(m, func(r MatrixRow) bool { return r.fails() != "" })
}

// Print writes the table.
func (m Matrix) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "datapath\ttraffic\tnative Mbit/s\toverlay Mbit/s\tbypass Mbit/s\tbypass/native\tproof of the bypass (share of what arrived)")
	for _, r := range m {
		proof := r.Cells[Bypass].Proof.String()
		if why := r.fails(); why != "" {
			proof = "FAIL " + why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.2f\t%s\n", r.Datapath, r.Kind, r.cell(Native), r.cell(Overlay), r.cell(Bypass), r.Ratio(), proof)
	}
	_ = w.Flush()
}

// cell is a figure in words.
func (r MatrixRow) cell(m Mode) string {
	if r.Cells[m].Fail != "" {
		return "FAIL"
	}
	return r.Cells[m].text(r.Kind)
}

func (c Cell) text(k Kind) string {
	if k.UDP {
		return fmt.Sprintf("%.1f (%.2f %% lost)", c.Mbps, 100*c.Lost)
	}
	return fmt.Sprintf("%.0f", c.Mbps)
}

// Text is the cell in words.
func (c Cell) Text(k Kind) string {
	if c.Fail != "" {
		return "FAIL " + c.Fail
	}
	return c.text(k) + " Mbit/s  " + c.Proof.String()
}
