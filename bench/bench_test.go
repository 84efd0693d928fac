package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rows of one test in one mode, a round each.
func rows(peer, test string, values ...float64) (list []Row) {
	for i, v := range values {
		list = append(list, Row{Mode: ModeDefault, Round: i + 1, Peer: peer, Test: test, Value: v})
	}
	return list
}

func TestMedian(t *testing.T) {
	for want, v := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 3, 2}, 7: {7}} {
		got, ok := median(v)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	_, ok := median(nil)
	require.False(t, ok)
}

func TestCheck(t *testing.T) {
	r := &Report{Rows: append(rows(Vias, TCP1, 300, 100, 200), rows(WireGuard, TCP1, 100, 120, 100)...)}
	r.Rows = append(r.Rows, rows(Vias, RSS, 60)...)
	at := func(x Target) Verdict { x.Mode = ModeDefault; return r.Check([]Target{x})[0] }
	require.True(t, at(Target{Test: TCP1, Peer: WireGuard, Least: 2}).Met())
	require.False(t, at(Target{Test: TCP1, Peer: WireGuard, Least: 2.01}).Met())
	require.True(t, at(Target{Test: TCP1, Peer: WireGuard, Most: 2}).Met())
	require.False(t, at(Target{Test: TCP1, Peer: WireGuard, Most: 1.99}).Met())
	require.True(t, at(Target{Test: RSS, Most: 60}).Met())
	require.False(t, at(Target{Test: RSS, Most: 59}).Met())
	require.Equal(t, Nebula, at(Target{Test: TCP1, Peer: Nebula, Least: 0.1}).Missing)
	require.Equal(t, Vias, at(Target{Test: RTT50, Most: 1}).Missing)
	require.False(t, at(Target{Test: RTT50, Most: 1}).Met(), "what was not measured is not met")

	var out strings.Builder
	require.True(t, WriteVerdicts(&out, []Verdict{at(Target{Test: RSS, Most: 64})}))
	require.False(t, WriteVerdicts(&out, []Verdict{at(Target{Test: RSS, Most: 64}), at(Target{Test: RSS, Most: 1})}))
	require.False(t, WriteVerdicts(&out, (&Report{}).Check(Targets())))
	require.Contains(t, out.String(), "MISSED")
	require.Contains(t, out.String(), "no figure of vias")
}

// Whoever is just good enough meets every target; whoever is a little worse in one thing misses
// what that is about, and nothing else.
func TestTargets(t *testing.T) {
	type figure struct{ mode, test, peer string }
	figures := func() map[figure]float64 {
		return map[figure]float64{
			{ModeDefault, TCP1, WireGuard}: 1000, {ModeDefault, TCP4, WireGuard}: 2000, {ModeNIC, TCP1, WireGuard}: 1000, {ModeNIC, TCP4, WireGuard}: 2000,
			{ModeDefault, TCP1, Bound}: 1600 / 0.85, {ModeDefault, TCP4, Bound}: 3200 / 0.85,
			{ModeDefault, TCP1CPU, WireGuard}: 10, {ModeDefault, TCP4CPU, WireGuard}: 5,
			{ModeDefault, UDPFlood, Nebula}: 50000, {ModeDefault, RTT50, OpenVPN}: 145,
			{ModeDefault, TCP1, Vias}: 1600, {ModeDefault, TCP4, Vias}: 3200, {ModeNIC, TCP1, Vias}: 1500, {ModeNIC, TCP4, Vias}: 3000,
			{ModeDefault, TCP1CPU, Vias}: 6, {ModeDefault, TCP4CPU, Vias}: 3, {ModeDefault, UDPFlood, Vias}: 60000,
			{ModeDefault, RTT50, Vias}: 145, {ModeDefault, RSS, Vias}: 63.9,
		}
	}
	missed := func(f map[figure]float64) (n int, out string) {
		r := &Report{}
		for k, v := range f {
			r.Rows = append(r.Rows, Row{Mode: k.mode, Round: 1, Peer: k.peer, Test: k.test, Value: v})
		}
		list := r.Check(Targets())
		for _, v := range list {
			if !v.Met() {
				n++
			}
		}
		var b strings.Builder
		require.Equal(t, n == 0, WriteVerdicts(&b, list))
		return n, b.String()
	}
	n, out := missed(figures())
	require.Zero(t, n, out)
	require.Contains(t, out, "11 targets: 11 met, 0 missed, 0 without a figure")
	for k, worse := range map[figure]struct {
		factor float64
		missed int
	}{
		{ModeDefault, TCP1, Vias}: {0.99, 2}, {ModeDefault, TCP4, Vias}: {0.99, 2}, {ModeNIC, TCP1, Vias}: {0.99, 1}, {ModeNIC, TCP4, Vias}: {0.99, 1},
		{ModeDefault, TCP1CPU, Vias}: {1.01, 1}, {ModeDefault, TCP4CPU, Vias}: {1.01, 1}, {ModeDefault, UDPFlood, Vias}: {0.99, 1},
		{ModeDefault, RTT50, Vias}: {1.01, 1}, {ModeDefault, RSS, Vias}: {1.01, 1},
	} {
		f := figures()
		f[k] *= worse.factor
		n, out := missed(f)
		require.Equal(t, worse.missed, n, "%v\n%s", k, out)
		delete(f, k)
		n, out = missed(f)
		require.Equal(t, worse.missed, n, "%v\n%s", k, out)
		require.Contains(t, out, "no figure of vias")
	}
}

func TestLossModes(t *testing.T) {
	require.Equal(t, []int{0, 0, 1, 10, 0, 1}, []int{Loss(ModeDefault), Loss(ModeNIC), Loss(ModeLoss1), Loss(ModeLoss10), Loss(ModeIntra), Loss(ModeInter)})
	for _, mode := range append(Modes(), ModeIntra, ModeInter, ModeSetUp) {
		require.NotEmpty(t, titles[mode])
	}
}

func TestReport(t *testing.T) {
	r := &Report{Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: "two <cores>", Command: "run", Versions: map[string]string{"go": "1.26"},
		Failed: []string{"tinc: no"}, Rows: append(rows(Vias, TCP1, 2000), rows("tinc & co", TCP1, 250.5, 260)...)}
	path := filepath.Join(t.TempDir(), "r.json")
	require.NoError(t, r.Save(path))
	back, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, r, back)
	_, err = Load(filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "none")

	var md strings.Builder
	require.NoError(t, r.WriteMarkdown(&md, Overlays()))
	require.Contains(t, md.String(), "| vias | 2000 |\n", "and no column that nobody has")
	require.Contains(t, md.String(), "| tinc & co | 255 |", "the median of two")
	require.Contains(t, md.String(), "medians of 2 rounds")
	require.Contains(t, md.String(), "- tinc: no")

	r.Rows = append(r.Rows, Row{Mode: ModeLoss1, Round: 1, Peer: Vias, Test: TCP4, Value: 7})
	md.Reset()
	require.NoError(t, r.WriteMarkdown(&md, Overlays()))
	_, lossy, _ := strings.Cut(md.String(), titles[ModeLoss1])
	require.Contains(t, lossy, "| vias | 7.0 |")
	require.NotContains(t, lossy, "| tinc", "it was not measured there")
	require.True(t, r.Has(ModeLoss1, TCP4))
	require.False(t, r.Has(ModeLoss1, TCP1))

	var svg bytes.Buffer
	require.NoError(t, r.WriteSVG(&svg, ModeDefault, TCP1, "TCP < UDP"))
	require.Equal(t, 3, strings.Count(svg.String(), "<rect"), "a ground and two bars")
	require.Contains(t, svg.String(), "tinc &amp; co")
	requireXML(t, &svg)
}

func requireXML(t *testing.T, from io.Reader) {
	t.Helper()
	for d := xml.NewDecoder(from); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else {
			require.NoError(t, err, "it is XML")
		}
	}
}

// The evaluation's page has a table and the plots of each mode, with the command that makes it.
func TestEvaluation(t *testing.T) {
	set := func(mode, peer, test string, v float64) Row {
		return Row{Mode: mode, Round: 1, Peer: peer, Test: test, Value: v}
	}
	r := &Report{Began: time.Now(), Machine: "m", Rows: []Row{
		{Mode: ModeIntra, Round: 1, Peer: "native", Test: TCP1, Value: 3000, Foreign: 0.5}, set(ModeIntra, Bypass, TCP1, 2900), set(ModeIntra, Bypass, UDPBulk, 400),
		set(ModeSetUp, "1000", SetUp50, 40), set(ModeSetUp, "10", SetUp50, 20), set(ModeSetUp, "odd", SetUp50, 1)}}
	dir := t.TempDir()
	require.NoError(t, Evaluation().Write(r, dir, nil))
	page, err := os.ReadFile(filepath.Join(dir, "evaluation.md"))
	require.NoError(t, err)
	for _, want := range []string{"took 0.00 processors meanwhile", "and 0.50 at most", "## Within a cloud", "| bypass | 2900 | 400 |", "-modes intra\n", "](evaluation-udp1200-intra.svg)", "| 1000 | 40.0 |", "-modes setup\n"} {
		require.Contains(t, string(page), want)
	}
	require.NotContains(t, string(page), "Targets")
	back, err := Load(filepath.Join(dir, "evaluation.json"))
	require.NoError(t, err)
	require.Len(t, back.Rows, len(r.Rows))

	bars, err := os.ReadFile(filepath.Join(dir, "evaluation-tcp1-intra.svg"))
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(bars), "<rect"))
	line, err := os.ReadFile(filepath.Join(dir, "evaluation-first-p50-setup.svg"))
	require.NoError(t, err)
	requireXML(t, bytes.NewReader(line))
	require.Equal(t, 2, strings.Count(string(line), "<circle"), "and none for what is no number")
	require.Regexp(t, `points="40\.0,\d+\.\d 550\.0,56\.0"`, string(line), "by number, the highest at the top")

	var out strings.Builder
	require.NoError(t, Evaluation().Write(r, "", &out))
	require.Equal(t, string(page), out.String())
	require.NoError(t, (&Report{}).WriteLine(&out, ModeSetUp, SetUp50, "nothing"))
}
