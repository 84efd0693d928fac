package lab

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMatrixRows(t *testing.T) {
	cell := func(mbps, lost float64, fail string) Cell {
		return Cell{Mbps: mbps, Lost: lost, Fail: fail, Proof: Proof{Moved: 1, Sender: 1, Receiver: 1}}
	}
	good := newRow(DatapathTSO, Kind{}, [modes][]Cell{
		{cell(1000, 0, ""), cell(3000, 0, ""), cell(2000, 0, "")}, {cell(100, 0, "")}, {cell(1900, 0, "")}})
	udp := newRow(DatapathAFXDP, Kind{UDP: true, IPv6: true}, [modes][]Cell{{cell(38, 0, "")}, {cell(37, 0.02, "")}, {cell(38, 0.0012, "")}})
	bad := newRow(DatapathPlain, Kind{IPv6: true}, [modes][]Cell{{cell(1000, 0, "")}, {cell(100, 0, "")}, {cell(900, 0, ""), cell(0, 0, "no rule")}})
	require.InDelta(t, 0.95, good.Ratio(), 1e-9)
	require.False(t, Matrix{good, udp}.Failed())
	require.True(t, Matrix{good, bad, udp}.Failed())
	require.True(t, Matrix{newRow(DatapathTSO, Kind{}, [modes][]Cell{{cell(1, 0, "")}})}.Failed(), "what was not measured")
	require.Zero(t, MatrixRow{}.Ratio())
	var out bytes.Buffer
	Matrix{good, udp, bad}.Print(&out)
	require.Regexp(t, `tso +tcp/v4 +2000 +100 +1900 +0\.95 +rules 1\.000/1\.000`, out.String())
	require.Regexp(t, `afxdp +udp/v6 +38\.0 \(0\.00 % lost\) +37\.0 \(2\.00 % lost\) +38\.0 \(0\.12 % lost\) +1\.00`, out.String())
	require.Regexp(t, `plain +tcp/v6 +1000 +100 +FAIL +0\.00 +FAIL bypass, round 2: no rule`, out.String())
	require.Contains(t, cell(1, 0, "why").Text(Kind{}), "FAIL why")
}
