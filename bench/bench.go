// Package bench holds what a comparison has measured: its rows, their medians, a page with tables
// and plots of them, and the targets that vias has set itself. The programs run and evaluate
// beside it measure; check tells which targets are missed.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Modes of the wire, which is a veth pair.
const (
	// ModeDefault: as the kernel makes it. Super-frames cross it whole.
	ModeDefault = "default"
	// ModeNIC: every packet on the wire has 1,500 bytes at most; the receiver merges.
	ModeNIC = "nic"
	// ModeLoss1 and ModeLoss10: as ModeNIC, and so many of a hundred packets are lost, in
	// either direction. TCP alone is measured.
	ModeLoss1  = "loss1"
	ModeLoss10 = "loss10"
)

// Modes lists them.
func Modes() []string { return []string{ModeDefault, ModeNIC, ModeLoss1, ModeLoss10} }

// Modes of the evaluation: hosts with Open vSwitch, and containers on them.
const (
	// ModeIntra: two hosts of one cloud.
	ModeIntra = "intra"
	// ModeInter: hosts of two clouds, with 20 ms between them, and 1 % of packets lost in either
	// direction.
	ModeInter = "inter"
	// ModeSetUp: flows are bypassed, so many at once; its peers are numbers of flows.
	ModeSetUp = "setup"
)

// Loss is how many of a hundred packets a mode's wire loses.
func Loss(mode string) int {
	return map[string]int{ModeLoss1: 1, ModeLoss10: 10, ModeInter: 1}[mode]
}

// Tests: what the value of a Row is.
const (
	TCP1     = "tcp1"     // Mbit/s of one stream
	TCP4     = "tcp4"     // Mbit/s of four
	TCP1CPU  = "tcp1.cpu" // seconds of CPU for each GB (10^9 bytes) of TCP1: tunnel, iperf3, interrupts
	TCP4CPU  = "tcp4.cpu"
	UDPFlood = "udp64"       // datagrams of 64 bytes a second that arrive of as many as go
	UDPLoss1 = "udp64.loss1" // the same at the highest rate with at most 1 % of loss
	RTT50    = "rr.p50"      // round trips of 64 bytes over TCP, µs
	RTT99    = "rr.p99"
	RSS      = "rss" // peak resident memory of the larger of the two ends, MB (10^6 bytes)

	UDPBulk    = "udp1200"     // Mbit/s of datagrams of 1,200 bytes with 1 % of loss beside the wire's
	UDPBulkCPU = "udp1200.cpu" // seconds of CPU for each GB of them
)

// Tests in ModeSetUp. Time is that from the first packet until the node has the flow bypassed.
const (
	SetUpShare    = "bypassed"     // % of the flows; the others' figures do not count
	SetUp50       = "first.p50"    // ms, while 16 connections are opened at once
	SetUp99       = "first.p99"    // ms
	SetUpMore     = "more.p50"     // ms, one connection at a time, with all others bypassed
	SetUpRate     = "rate"         // flows bypassed a second
	SetUpNodes    = "nodes.cpu"    // µs of CPU a flow, of both nodes
	SetUpSwitches = "switches.cpu" // µs of CPU a flow, of both switches
	SetUpMods     = "mods"         // flow-mods a flow, at both switches
	SetUpModRate  = "mods.rate"    // flow-mods a second
	SetUpOuts     = "outs"         // packet-outs a flow
	SetUpIns      = "ins.rate"     // packet-ins a second
)

// Row is one measurement.
type Row struct {
	Mode  string  `json:"mode"`
	Round int     `json:"round"`
	Peer  string  `json:"peer"`
	Test  string  `json:"test"`
	Value float64 `json:"value"`
	// Foreign is how many processors other programs took meanwhile; 0 = not looked at.
	Foreign float64 `json:"foreign,omitempty"`
}

// Report is a whole run.
type Report struct {
	Began    time.Time         `json:"began"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Command  string            `json:"command"`
	Rows     []Row             `json:"rows"`
	// Failed says of peers that did not come up, or tests that failed, what they said.
	Failed []string `json:"failed,omitempty"`
}

// Load reads a Report.
func Load(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("bench: %s: %w", path, err)
	}
	return r, nil
}

// Save writes it.
func (r *Report) Save(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// Median of a test's rounds; false: it has none.
func (r *Report) Median(mode, peer, test string) (float64, bool) {
	var v []float64
	for _, row := range r.Rows {
		if row.Mode == mode && row.Peer == peer && row.Test == test {
			v = append(v, row.Value)
		}
	}
	return median(v)
}

func median(v []float64) (float64, bool) {
	if len(v) == 0 {
		return 0, false
	}
	slices.Sort(v)
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (m + v[len(v)/2-1]) / 2
	}
	return m, true
}

// foreign is how many processors other programs took, by a quantile of the TCP tests.
func (r *Report) foreign(quantile float64) float64 {
	var v []float64
	for _, row := range r.Rows {
		if row.Test == TCP1 || row.Test == TCP4 {
			v = append(v, row.Foreign)
		}
	}
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[int(quantile*float64(len(v)-1))]
}

// Has tells whether anybody was measured so.
func (r *Report) Has(mode, test string) bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Mode == mode && row.Test == test })
}

// Modes that were measured, in the order of their coming.
func (r *Report) Modes() []string { return r.each(func(row Row) string { return row.Mode }) }

// Peers that were measured, in the order of their coming.
func (r *Report) Peers() []string { return r.each(func(row Row) string { return row.Peer }) }

func (r *Report) each(of func(Row) string) (list []string) {
	for _, row := range r.Rows {
		if s := of(row); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// Rounds is how many there were.
func (r *Report) Rounds() (n int) {
	for _, row := range r.Rows {
		n = max(n, row.Round)
	}
	return n
}
