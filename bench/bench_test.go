package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
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
	require.NoError(t, r.WriteMarkdown(&md))
	require.Contains(t, md.String(), "| vias | 2000 |  |")
	require.Contains(t, md.String(), "| tinc & co | 255 |", "the median of two")
	require.Contains(t, md.String(), "medians of 2 rounds")
	require.Contains(t, md.String(), "- tinc: no")

	var svg bytes.Buffer
	require.NoError(t, r.WriteSVG(&svg, ModeDefault, TCP1, "TCP < UDP"))
	require.Equal(t, 3, strings.Count(svg.String(), "<rect"), "a ground and two bars")
	require.Contains(t, svg.String(), "tinc &amp; co")
	for d := xml.NewDecoder(&svg); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err, "it is XML")
		}
	}
}
