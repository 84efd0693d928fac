//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

func TestConfRefused(t *testing.T) {
	for text, want := range map[string]uint{
		`{"name": "blue"}`: types.ErrInvalidNetworkConfig,
		`{"name": "blue", "bridge": "br0", "vlan": 4095}`: types.ErrInvalidNetworkConfig,
		`{"name": "blue", "bridge": "br0", "mtu": 100}`:   types.ErrInvalidNetworkConfig,
		`{"name": "blue", "bridge": "br0", "vlan": "x"}`:  types.ErrDecodingFailure,
	} {
		_, err := parseConf([]byte(text))
		require.Equal(t, want, code(t, err), text)
	}
	c, err := parseConf([]byte(`{"name": "blue", "bridge": "br0"}`))
	require.NoError(t, err)
	require.Equal(t, "/run/vias/blue.sock", c.Socket)
	before, err := c.previous()
	require.NoError(t, err)
	require.Nil(t, before)
	for _, bad := range []string{`{"ips": "none"}`, `{"cniVersion": "0.9.9"}`} {
		c, err = parseConf([]byte(`{"cniVersion": "1.1.0", "name": "b", "bridge": "br0", "prevResult": ` + bad + `}`))
		require.NoError(t, err, "DEL does not care")
		_, err = c.previous()
		require.EqualValues(t, types.ErrDecodingFailure, code(t, err), bad)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range []attachment{{"blue", "c1", "eth0"}, {"blue", "c1", "eth1"}, {"blue", "c2", "eth0"}, {"red", "c1", "eth0"}, {"b", "luec1", "eth0"}} {
		require.Len(t, a.name(), nameLength)
		require.True(t, strings.HasPrefix(a.name(), prefix(a.network)))
		require.False(t, seen[a.name()])
		seen[a.name()] = true
	}
	require.Len(t, prefix("blue"), prefixLength)
	require.Equal(t, "vc"+digest(4, "blue")+digest(9, "blue", "c1", "eth0"), c1.name())
	m := c1.ownMAC(overlay.PeerID{1})
	require.Equal(t, m, c1.ownMAC(overlay.PeerID{1}))
	require.NotEqual(t, m, c1.ownMAC(overlay.PeerID{2}), "the container of that name on another node")
	require.EqualValues(t, 2, m[0]&3)
}

func TestWantedMAC(t *testing.T) {
	for _, s := range []struct{ config, args, want string }{
		{"", "", "00:00:00:00:00:00"},
		{"02:00:00:00:00:01", "MAC=02:00:00:00:00:02", "02:00:00:00:00:01"},
		{"", "K8S_POD_NAME=x;MAC=02:00:00:00:00:02", "02:00:00:00:00:02"},
		{"", "MAC", ""}, {"x", "", ""}, {"01:00:00:00:00:01", "", ""}, {"00:00:00:00:00:00", "", ""}, {"", "MAC=02:00:00:00:00:00:00:01", ""},
	} {
		c := &netConf{}
		c.RuntimeConfig.MAC = s.config
		m, err := c.wantedMAC(s.args)
		if s.want == "" {
			require.EqualValues(t, types.ErrInvalidEnvironmentVariables, code(t, err), s)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, s.want, m.String())
	}
}

func TestIPAMFails(t *testing.T) {
	p := newPlace(t)
	for script, want := range map[string]uint{
		`echo '{"code":11,"msg":"come again"}'; exit 1`: types.ErrTryAgainLater,
		`echo oh >&2; exit 1`:                           types.ErrInternal,
		`kill -9 $$`:                                    types.ErrInternal,
		`echo`:                                          types.ErrDecodingFailure,
		`echo null`:                                     types.ErrDecodingFailure,
		`echo '{}'`:                                     types.ErrDecodingFailure,
		`echo '{"cniVersion":"9.0.0"}'`:                 types.ErrDecodingFailure,
		`echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5"}]}'`: types.ErrDecodingFailure,
	} {
		p.ipam(script)
		plugin, _ := p.plugin("")
		before := len(p.asked())
		require.Equal(t, want, code(t, plugin.add(t.Context())), script)
		require.Empty(t, p.left())
		if want == types.ErrDecodingFailure {
			require.Equal(t, []string{"ADD c1 eth0", "DEL c1 eth0"}, p.asked()[before:], "it may have given addresses")
		}
	}
	for _, name := range []string{"none", "../ipam", ".."} {
		plugin, _ := p.plugin("")
		plugin.conf.IPAM.Type = name
		require.EqualValues(t, types.ErrInvalidNetworkConfig, code(t, plugin.add(t.Context())), name)
	}
	p.ipam(`cat >` + p.bin + `/stdin; echo '{"ips":[{"address":"10.1.0.5/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}'`)
	plugin, out := p.plugin("")
	require.NoError(t, plugin.add(t.Context()), "a result without a version has the configuration's")
	require.Contains(t, out.String(), "10.1.0.5/24")
	text, err := os.ReadFile(p.bin + "/stdin")
	require.NoError(t, err)
	require.Equal(t, string(plugin.args.StdinData), string(text), "the whole configuration")
}

// TestProgram: what the skeleton does, with the program as it runs.
func TestProgram(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	call := func(stdin string, env ...string) (map[string]any, error) {
		cmd := exec.Command(self)
		cmd.Env = append(env, playPlugin+"=1")
		cmd.Stdin = strings.NewReader(stdin)
		var out bytes.Buffer
		cmd.Stdout = &out
		failed := cmd.Run()
		var answer map[string]any
		if out.Len() > 0 {
			require.NoError(t, json.Unmarshal(out.Bytes(), &answer), "%s", out.String())
		}
		return answer, failed
	}
	answer, err := call(`{"cniVersion": "1.1.0"}`, "CNI_COMMAND=VERSION")
	require.NoError(t, err)
	require.Equal(t, []any{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, answer["supportedVersions"])
	for _, s := range []struct {
		stdin string
		env   []string
		code  uint
	}{
		{`{"cniVersion": "1.1.0", "name": "blue"}`, []string{"CNI_COMMAND=ADD"}, types.ErrInvalidEnvironmentVariables},
		{`{"cniVersion": "0.1.0", "name": "blue"}`, []string{"CNI_COMMAND=STATUS", "CNI_PATH=/x"}, types.ErrIncompatibleCNIVersion},
		{`{"cniVersion": "1.1.0", "name": "blue"}`, []string{"CNI_COMMAND=STATUS", "CNI_PATH=/x"}, types.ErrInvalidNetworkConfig},
		{`{"cniVersion": "1.1.0", "name": "blue", "bridge": "br0", "ovsdb": "unix:/nonexistent"}`, []string{"CNI_COMMAND=STATUS", "CNI_PATH=/x"}, types.ErrPluginNotAvailable},
	} {
		answer, err := call(s.stdin, s.env...)
		require.Error(t, err)
		require.EqualValues(t, s.code, answer["code"], "%v", answer)
	}
}
