package chaos

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run came to.
type Report struct {
	Seed   uint64
	Storms int
	Kinds  []KindReport // by kind
	// Recovery is the longest time until all was whole once nothing was broken.
	Recovery  time.Duration
	Transfers []TransferReport
}

// KindReport is a kind of fault.
type KindReport struct {
	Kind  string
	Times int
	// Gap is the longest time in which nothing arrived, in either direction of any transfer,
	// from when such a fault began until all was whole again. Other faults were there, too;
	// times at which a Fatal one was count for that alone.
	Gap time.Duration
	// On is the transfer that had it.
	On string
}

// TransferReport is a transfer.
type TransferReport struct {
	Name        string
	There, Back uint64
	Gap         time.Duration
	Resumed     int // connections that ended by a time-out, and were followed by another
}

// summarise fills in what is known at the end.
func (r *run) summarise() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range kinds(r.Faults) {
		k := KindReport{Kind: kind}
		for _, h := range r.happen {
			if h.Kind != kind {
				continue
			}
			k.Times++
			if !h.Fatal && slices.ContainsFunc(r.happen, h.withFatal) {
				continue
			}
			until := h.whole()
			for _, t := range r.Transfers {
				if g := t.gap(h.from, until); g > k.Gap {
					k.Gap, k.On = g, t.Name
				}
			}
		}
		r.report.Kinds = append(r.report.Kinds, k)
	}
	for _, t := range r.Transfers {
		there, back := t.Bytes()
		r.report.Transfers = append(r.report.Transfers, TransferReport{Name: t.Name, There: there, Back: back,
			Gap: t.gap(r.started, time.Now()), Resumed: len(t.breaks())})
	}
}

// whole is until when it was felt, at most.
func (h *happening) whole() time.Time {
	if h.until.IsZero() {
		return time.Now()
	}
	return h.until
}

// withFatal: o is Fatal, and both were there at once.
func (h *happening) withFatal(o *happening) bool {
	return o.Fatal && o.from.Before(h.whole()) && h.from.Before(o.whole())
}

// Missing lists the kinds that have not happened.
func (r Report) Missing() []string {
	var list []string
	for _, k := range r.Kinds {
		if k.Times == 0 {
			list = append(list, k.Kind)
		}
	}
	return slices.Clip(list)
}

// Print writes the tables.
func (r Report) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\ttimes\tlongest gap\tof")
	for _, k := range r.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%.1f s\t%s\n", k.Kind, k.Times, k.Gap.Seconds(), k.On)
	}
	fmt.Fprintln(w, strings.Repeat("\t", 3))
	fmt.Fprintln(w, "transfer\tMB there\tMB back\tlongest gap\tresumed")
	for _, t := range r.Transfers {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f s\t%d\n", t.Name, float64(t.There)/1e6, float64(t.Back)/1e6, t.Gap.Seconds(), t.Resumed)
	}
	_ = w.Flush()
	fmt.Fprintf(out, "seed %d: %d storms; after each, all was whole again within %.1f s\n", r.Seed, r.Storms, r.Recovery.Seconds())
}
