package lab

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pairBetween is one that is as it should be.
func pairBetween(a, b int, path string) CloudPair {
	return CloudPair{From: "x", To: "y", At: [2]int{a, b}, Path: path, Bytes: cloudBytes}
}

func TestPathsOfClouds(t *testing.T) {
	for _, c := range []struct {
		a, b int
		path string
		ok   bool
	}{
		{1, 5, PathBypass, true}, {2, 3, PathBypass, true}, {3, 2, PathBypass, true}, {2, 2, PathSwitch, true},
		{1, 2, PathDirect, true}, {5, 3, PathDirect, true}, {2, 4, PathDirect, true}, {4, 1, PathRelay, true}, {1, 4, PathDirect, true},
		{1, 5, PathDirect, false}, {2, 3, PathRelay, false}, {2, 3, PathNone, false}, {2, 2, PathBypass, false},
		{1, 2, PathBypass, false}, {1, 2, PathRelay, false}, {4, 2, PathRelay, false}, {4, 1, PathBypass, false},
	} {
		p := pairBetween(c.a, c.b, c.path)
		require.Equal(t, c.ok, p.wrong() == "", "%d to %d: %s: %s", c.a, c.b, c.path, p.wrong())
	}
}

func TestWrongPairs(t *testing.T) {
	good := pairBetween(1, 5, PathBypass)
	require.NoError(t, wrongPairs([]CloudPair{good, good}))
	few, path, broken := good, good, good
	few.Bytes--
	path.Path, path.Why = PathDirect, "the path is being proven"
	broken.Broken = "reset"
	require.EqualError(t, wrongPairs([]CloudPair{few, good, path, broken}), "x to y: 65535 bytes have arrived in this stage, want 65536\n"+
		"x to y: the path is direct, want bypass (the path is being proven)\nx to y: the connection ended: reset")
}

func TestCloudSites(t *testing.T) {
	c, err := CloudsConfig{}.lab().normal()
	require.NoError(t, err)
	places := map[string][]string{}
	for _, h := range c.plan() {
		at := c.site(h.Index)
		require.Equal(t, h.Addr, at.host(h.Index))
		places[placeOf(h.Index)] = append(places[placeOf(h.Index)], at.namespace+" "+at.bridge+" "+h.Addr.String())
	}
	require.Equal(t, map[string][]string{
		CloudA: {"vias-net1 lan0 10.99.0.1", "vias-net1 lan0 10.99.0.5"},
		CloudB: {"vias-net2 lan1 10.99.0.2", "vias-net2 lan2 10.99.1.3"},
		Home:   {"vias-net4 lan3 192.168.1.4"},
	}, places)
	require.Equal(t, c.Sites[0].Prefix, c.Sites[1].Prefix, "two clouds have the same range")
	require.Equal(t, "cloud-b", cloudTrust(2, 0).Domain)
	require.Equal(t, cloudTrust(2, 0), cloudTrust(3, 0))
	require.Empty(t, cloudTrust(1, 0).Domain)

	for _, wrong := range []Site{{Prefix: c.Sites[2].Prefix, Behind: 3}, {Prefix: c.Sites[2].Prefix, Behind: -1},
		{Prefix: c.Sites[2].Prefix, Behind: 2, Outside: c.Sites[3].Outside}, {Prefix: c.Sites[2].Prefix, Behind: 2, NAT: &symmetricNAT}} {
		c.Sites[2] = wrong
		_, err = c.normal()
		require.ErrorContains(t, err, "site 3: it stands behind the router of an earlier site alone")
	}
}

func TestWriteClouds(t *testing.T) {
	var b bytes.Buffer
	WriteClouds(&b, []CloudPair{
		{From: "h1c1", To: "h2c1", At: [2]int{1, 2}, Path: PathDirect, Why: "far", RTT: 1500 * time.Microsecond, Mbps: 1.64},
		{From: "h1c1", To: "h5c1", At: [2]int{1, 5}, Path: PathBypass, Why: "a to b", RTT: 200 * time.Microsecond, Mbps: 1.6, Burst: 3456.7},
		{From: "h2c1", To: "h5c1", At: [2]int{2, 5}, Path: PathNone, Broken: "reset"},
	})
	require.Equal(t, `                       h1c1  h2c1                h5c1
h1c1  host 1, cloud A  ·     direct 1.50 ms 1.6  bypass 0.20 ms 3457
h2c1  host 2, cloud B  ·     ·                   broken
h5c1  host 5, cloud A  ·     ·                   ·
h2c1-h5c1  broken: reset
h1c1-h5c1  bypass: a to b
h1c1-h2c1  direct: far
`, b.String())
}

func TestCloudsReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	r := CloudsReport{Stages: []CloudStage{{Name: "one", Pairs: []CloudPair{pairBetween(1, 5, PathBypass)}}}, Frames: 7, Error: "no"}
	require.NoError(t, r.Save(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var got CloudsReport
	require.NoError(t, json.Unmarshal(b, &got))
	require.Equal(t, r, got)
	require.Error(t, r.Save(filepath.Join(path, "x")))
}
