package ofctltest

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/ofctl"
)

// TestIntegrationOvsOfctl: ovs-ofctl, whose decoder is Open vSwitch's own, asks a served
// Switch everything there is and reads the answers.
func TestIntegrationOvsOfctl(t *testing.T) {
	itest.Require(t, "ovs-ofctl")
	sw := New(Config{DatapathID: 42})
	defer sw.Close()
	_, err := sw.AddPort(Port{No: 3, Name: "w0", MAC: [6]byte{2, 5: 9}})
	require.NoError(t, err)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, sw) }()
	defer func() { cancel(); require.NoError(t, <-served) }()
	require.NoError(t, sw.Apply(ctx, []ofctl.Mod{ofctl.MeterMod{Meter: ofctl.Meter{ID: 5, Rate: 9, Burst: 2}}}))
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(ctx, "ovs-ofctl", append([]string{"--timeout=10", "-OOpenFlow13", "--no-names"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
		return string(out)
	}
	to := "unix:" + socket
	run("add-group", to, "group_id=1,type=select,bucket=output:3")
	run("add-flow", to, "table=2,priority=5,tcp,tp_dst=80,actions=meter:5,group:1")
	run("add-flow", to, "check_overlap,table=2,priority=6,udp,actions=output:3")
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"show", to}, "addr:02:00:00:00:00:09"},
		{[]string{"dump-desc", to}, "package ofctltest"},
		{[]string{"dump-flows", to}, "table=2, n_packets=0, n_bytes=0, priority=5,tcp,tp_dst=80 actions=meter:5,group:1"},
		{[]string{"dump-flows", to, "out_port=3"}, "udp actions=output:3"},
		{[]string{"dump-aggregate", to}, "flow_count=2"},
		{[]string{"dump-tables", to}, "active=2"},
		{[]string{"dump-table-features", to}, "table 253"},
		{[]string{"dump-ports", to, "3"}, "rx pkts=0"},
		{[]string{"dump-ports-desc", to}, "LOCAL"},
		{[]string{"queue-stats", to}, "0 queues"},
		{[]string{"dump-groups", to}, "group_id=1,type=select"},
		{[]string{"dump-group-stats", to}, "group_id=1,duration="},
		{[]string{"dump-group-features", to}, "max_groups=0xffffff00"},
		{[]string{"meter-features", to}, "max_meter:65536"},
		{[]string{"dump-meters", to}, "meter=5 pktps burst"},
		{[]string{"meter-stats", to}, "flow_count:1"},
		{[]string{"get-frags", to}, "normal"},
		{[]string{"probe", to}, ""},
		{[]string{"mod-port", to, "3", "no-forward"}, ""},
		{[]string{"show", to}, "config:     NO_FWD"},
		{[]string{"del-flows", to, "out_group=1"}, ""},
		{[]string{"dump-aggregate", to}, "flow_count=1"},
		{[]string{"del-groups", to}, ""},
		{[]string{"del-meters", to}, ""},
	} {
		require.Contains(t, run(row.args...), row.want, "%v", row.args)
	}
}
