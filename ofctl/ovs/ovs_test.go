package ovs_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ovs"
)

// recorder answers commands from a table and notes them.
type recorder struct {
	answers map[string]string // by a part of the command
	said    []string
}

func (r *recorder) exec(_ context.Context, name string, args ...string) ([]byte, error) {
	line := name + " " + strings.Join(args, " ")
	r.said = append(r.said, line)
	for part, answer := range r.answers {
		if strings.Contains(line, part) {
			if answer == "fail" {
				return nil, errors.New("no such thing")
			}
			return []byte(answer), nil
		}
	}
	return nil, nil
}

func TestEnsureBridgeIsOneTransaction(t *testing.T) {
	r := &recorder{answers: map[string]string{"list-br": "other\n"}}
	c := ovs.New(ovs.Config{Exec: r.exec, DB: "unix:/x/db.sock", RunDir: "/x"})
	made, err := c.EnsureBridge(t.Context(), ovs.Bridge{Name: "br0", DatapathType: itest.BridgeType(t), FailMode: "secure",
		HWAddr: [6]byte{2, 0, 0, 0, 0, 1}, Trunks: []uint16{0}, ExternalIDs: map[string]string{"b": `q"`, "a": "1"}})
	require.NoError(t, err)
	require.True(t, made)
	require.Equal(t, []string{"ovs-vsctl --db=unix:/x/db.sock list-br",
		`ovs-vsctl --db=unix:/x/db.sock --may-exist add-br br0 -- set bridge br0 external_ids:a="1" external_ids:b="q\"" ` +
			`datapath_type=netdev fail_mode=secure other_config:hwaddr="02:00:00:00:00:01" external_ids:vias-owner="vias" ` +
			`-- set port br0 trunks=[0]`}, r.said)
	require.Equal(t, "unix:/x/br0.mgmt", c.Mgmt("br0"))
}

func TestNamesThatToolsWouldMisread(t *testing.T) {
	r := &recorder{}
	c := ovs.New(ovs.Config{Exec: r.exec})
	for _, name := range []string{"", "-x", "--", "a b", "a/b", "sixteen-letters-", "br0\n", "*"} {
		_, err := c.EnsureBridge(t.Context(), ovs.Bridge{Name: name})
		require.ErrorContains(t, err, "no name", name)
		_, err = c.EnsurePort(t.Context(), "br0", ovs.Port{Name: name})
		require.ErrorContains(t, err, "no name", name)
		_, err = c.OFPort(t.Context(), name)
		require.ErrorContains(t, err, "no name", name)
		require.ErrorContains(t, c.DeleteBridge(t.Context(), name), "no name", name)
		require.ErrorContains(t, c.DeletePort(t.Context(), name, "p"), "no name", name)
		_, err = c.Witness(name).Flows(t.Context())
		require.ErrorContains(t, err, "no name", name)
	}
	_, err := c.EnsureBridge(t.Context(), ovs.Bridge{Name: "br0", ExternalIDs: map[string]string{"vias-owner": "me"}})
	require.ErrorContains(t, err, "no key")
	require.Empty(t, r.said)
}

func TestPortIsOneTransaction(t *testing.T) {
	r := &recorder{answers: map[string]string{"get interface": "5\n[]\n", "list-ports": ""}}
	c := ovs.New(ovs.Config{Exec: r.exec, NoWait: true})
	ofport, err := c.EnsurePort(t.Context(), "br0", ovs.Port{Name: "p1", Tag: 7, Type: "internal",
		InterfaceIDs: map[string]string{"iface-id": "p1", "attached-mac": "02:00:00:00:00:01"}})
	require.NoError(t, err)
	require.EqualValues(t, 5, ofport)
	require.Contains(t, r.said, `ovs-vsctl --no-wait --may-exist add-port br0 p1 -- set port p1 external_ids:vias-owner="vias" tag=7 `+
		`-- set interface p1 external_ids:attached-mac="02:00:00:00:00:01" external_ids:iface-id="p1" type=internal`)
}

func TestInterfacesAreRead(t *testing.T) {
	r := &recorder{answers: map[string]string{}}
	c := ovs.New(ovs.Config{Exec: r.exec})
	for _, bad := range []string{`x`, `{"data":[["a"]]}`, `{"data":[[1,["map",[]]]]}`, `{"data":[["a",["set",[]]]]}`, `{"data":[["a",7]]}`, "fail"} {
		r.answers["find"] = bad
		_, err := c.Interfaces(t.Context(), nil)
		require.ErrorContains(t, err, "ovs: interfaces", bad)
	}
	_, err := c.Interfaces(t.Context(), map[string]string{"a b": ""})
	require.ErrorContains(t, err, "no key")
}

func TestPortWithoutOFPort(t *testing.T) {
	r := &recorder{answers: map[string]string{"get interface": "-1\n\"could not open network device\"\n", "list-ports": ""}}
	c := ovs.New(ovs.Config{Exec: r.exec})
	_, err := c.EnsurePort(t.Context(), "br0", ovs.Port{Name: "gone", Tag: 7})
	require.ErrorContains(t, err, "could not open network device")
	r.answers = map[string]string{"list-br": "fail"}
	_, err = c.EnsureBridge(t.Context(), ovs.Bridge{Name: "br0"})
	require.ErrorContains(t, err, "no such thing")
}

func TestIntegrationBridgeAndPorts(t *testing.T) {
	s := ovstest.Start(t)
	c := ovs.New(ovs.Config{RunDir: s.Dir(), DB: s.DB()})
	ctx, mac := t.Context(), [6]byte{2, 0, 0, 0, 0, 7}
	bridge := ovs.Bridge{Name: "br0", DatapathType: itest.BridgeType(t), FailMode: "secure", HWAddr: mac, Trunks: []uint16{0}}
	made, err := c.EnsureBridge(ctx, bridge)
	require.NoError(t, err)
	require.True(t, made)
	made, err = c.EnsureBridge(ctx, bridge)
	require.NoError(t, err)
	require.False(t, made)
	require.Equal(t, `"02:00:00:00:00:07"`, s.MustVsctl("get", "interface", "br0", "mac_in_use"))
	port := ovs.Port{Name: "p1", Type: "internal", Tag: 7, ExternalIDs: map[string]string{"workload": "a b"},
		InterfaceIDs: map[string]string{"iface-id": `a "b"`, "x": "1"}}
	ofport, err := c.EnsurePort(ctx, "br0", port)
	require.NoError(t, err)
	again, err := c.EnsurePort(ctx, "br0", port)
	require.NoError(t, err)
	require.Equal(t, ofport, again)
	require.Equal(t, "7", s.MustVsctl("get", "port", "p1", "tag"))
	require.Equal(t, `"a b"`, s.MustVsctl("get", "port", "p1", "external_ids:workload"))
	found, err := c.Interfaces(ctx, map[string]string{"iface-id": `a "b"`, "x": "1"})
	require.NoError(t, err)
	require.Equal(t, []ovs.Interface{{Name: "p1", ExternalIDs: port.InterfaceIDs}}, found)
	found, err = c.Interfaces(ctx, map[string]string{"iface-id": "other"})
	require.NoError(t, err)
	require.Empty(t, found)
	on, err := c.BridgeOf(ctx, "p1")
	require.NoError(t, err)
	require.Equal(t, "br0", on)
	_, err = c.BridgeOf(ctx, "none")
	require.ErrorContains(t, err, "no port")
	local, err := c.OFPort(ctx, "br0")
	require.NoError(t, err)
	require.Equal(t, ofctl.PortLocal, local)
	_, err = c.OFPort(ctx, "none")
	require.ErrorContains(t, err, "no row")

	s.MustVsctl("add-port", "br0", "theirs", "--", "set", "interface", "theirs", "type=internal", "--", "add-br", "br1", "--", "set", "bridge", "br1", "datapath_type="+itest.BridgeType(t))
	_, err = c.EnsurePort(ctx, "br0", ovs.Port{Name: "theirs", Trunks: []uint16{0, 9}})
	require.NoError(t, err)
	require.Equal(t, "[0, 9]", s.MustVsctl("get", "port", "theirs", "trunks"))
	_, err = c.EnsurePort(ctx, "br1", port)
	require.ErrorContains(t, err, "br0")
	made, err = c.EnsureBridge(ctx, ovs.Bridge{Name: "br1"})
	require.NoError(t, err)
	require.False(t, made)
	require.ErrorIs(t, c.DeletePort(ctx, "br0", "theirs"), ovs.ErrNotOurs)
	require.ErrorIs(t, c.DeleteBridge(ctx, "br1"), ovs.ErrNotOurs)
	require.NoError(t, c.DeletePort(ctx, "br0", "p1"))
	require.NoError(t, c.DeletePort(ctx, "br0", "p1"))
	require.NoError(t, c.DeleteBridge(ctx, "br0"))
	require.NoError(t, c.DeleteBridge(ctx, "br0"))
	require.Equal(t, "br1", s.MustVsctl("list-br"))
}

func TestIntegrationWitness(t *testing.T) {
	s := ovstest.Start(t)
	c := ovs.New(ovs.Config{RunDir: s.Dir(), DB: s.DB()})
	_, err := c.EnsureBridge(t.Context(), ovs.Bridge{Name: "br0", DatapathType: itest.BridgeType(t), FailMode: "secure"})
	require.NoError(t, err)
	sw, err := ofctl.Dial(t.Context(), c.Mgmt("br0"), ofctl.Config{})
	require.NoError(t, err)
	defer sw.Close()
	counted := ofctl.Flow{Priority: 5, Cookie: 0x77, Match: ofctl.Match{ofctl.EthType(0x88b5)}}
	lease := ofctl.Flow{Table: 3, Priority: 9, HardTimeout: 300, SendFlowRemoved: true, Match: ofctl.TCP4(ofctl.TCPDst(80)),
		Apply: []ofctl.Action{ofctl.ToGroup{ID: 4}}}
	group := ofctl.Group{ID: 4, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: []ofctl.Action{ofctl.Output{Port: 1}}}}}
	require.NoError(t, sw.Apply(t.Context(), []ofctl.Mod{ofctl.GroupMod{Group: group}, ofctl.FlowMod{Flow: counted}, ofctl.FlowMod{Flow: lease}}))
	frame := append(make([]byte, 12), 0x88, 0xb5)
	frame = append(frame, make([]byte, 50)...)
	require.NoError(t, sw.PacketOut(t.Context(), ofctl.PacketOut{Frame: frame, Actions: []ofctl.Action{ofctl.Output{Port: ofctl.PortTable}}}))

	w := c.Witness("br0")
	var flows []ovs.FlowLine
	require.Eventually(t, func() bool {
		flows, err = w.Flows(t.Context())
		require.NoError(t, err)
		require.Len(t, flows, 2)
		return flows[0].Packets+flows[1].Packets > 0
	}, 5*time.Second, 50*time.Millisecond)
	for _, f := range flows {
		switch f.Cookie {
		case 0x77:
			require.Equal(t, "cookie=0x77, table=0, priority=5,dl_type=0x88b5 actions=drop", f.Text)
			require.EqualValues(t, 1, f.Packets)
			require.EqualValues(t, 64, f.Bytes)
			require.NotNil(t, f.Flow)
			require.Equal(t, 5, f.Flow.Priority)
			require.EqualValues(t, 1, f.Flow.Stats.PacketCount)
		default:
			require.Equal(t, "table=3, hard_timeout=300, send_flow_rem priority=9,tcp,tp_dst=80 actions=group:4", f.Text)
		}
	}
	groups, err := w.Groups(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{group.String()}, groups)
	native, err := sw.Flows(t.Context(), ofctl.Owned(0x77, ^uint64(0)))
	require.NoError(t, err)
	require.Len(t, native, 1)
	require.EqualValues(t, 64, native[0].Bytes)
}
