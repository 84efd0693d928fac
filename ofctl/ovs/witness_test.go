package ovs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseLine(t *testing.T) {
	for line, want := range map[string]FlowLine{
		"cookie=0x0, duration=1.5s, table=0, n_packets=3, n_bytes=4, priority=0 actions=NORMAL":                                 {Text: "table=0, priority=0 actions=NORMAL", Packets: 3, Bytes: 4},
		"cookie=0x7, duration=1s, table=1, n_packets=0, n_bytes=0, idle_timeout=9, idle_age=3, actions=drop":                    {Text: "cookie=0x7, table=1, idle_timeout=9 actions=drop", Cookie: 7},
		"cookie=0x0, duration=1s, table=2, n_packets=0, n_bytes=0, hard_timeout=9, send_flow_rem priority=3,ip actions=group:1": {Text: "table=2, hard_timeout=9, send_flow_rem priority=3,ip actions=group:1"},
	} {
		got, err := parseLine(line)
		require.NoError(t, err)
		got.Flow = nil
		require.Equal(t, want, got)
	}
	_, err := parseLine("n_packets=many actions=drop")
	require.Error(t, err)
}

func FuzzParseLine(f *testing.F) {
	f.Add("cookie=0x0, duration=1.5s, table=0, n_packets=3, n_bytes=4, priority=0 actions=NORMAL")
	f.Add("actions=")
	f.Add(", , =,actions=resubmit(,20),ct(commit)")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := parseLine(line)
		if err == nil && strings.Contains(line, "actions=") {
			require.Contains(t, got.Text, "actions=")
		}
	})
}
