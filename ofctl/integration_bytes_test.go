package ofctl_test

import (
	"bufio"
	"bytes"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// recorder keeps what is read.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	read bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read.Write(b[:n])
	return n, err
}

// answered asks, and fails the test unless there is an answer.
func answered[T any](t *testing.T, c *ofctl.Conn, r ofctl.Request[T]) T {
	t.Helper()
	answer, err := ofctl.Ask(t.Context(), c, r)
	require.NoError(t, err)
	return answer
}

// TestIntegrationBytes: every message that Open vSwitch sends reads as a value, and
// writes as the same bytes again, but for what has several forms.
func TestIntegrationBytes(t *testing.T) {
	s := ovstest.Start(t)
	nc, err := net.Dial("unix", strings.TrimPrefix(s.Bridge("br0"), "unix:"))
	require.NoError(t, err)
	rec := &recorder{Conn: nc}
	c, err := ofctl.NewConn(t.Context(), rec, ofctl.Config{})
	require.NoError(t, err)
	provokeAll(t, s, c)
	require.NoError(t, c.Close())
	rec.mu.Lock()
	defer rec.mu.Unlock()
	seen := make(map[[2]byte]int)
	for br := bufio.NewReader(&rec.read); ; {
		b, err := ofp.Read(br)
		if err != nil {
			break
		}
		kind := [2]byte{b[1]}
		if b[1] == ofp.TypeMultipartReply {
			kind[1] = b[9]
		}
		seen[kind]++
		checkBytes(t, b)
	}
	for typ := range byte(14) {
		require.Positive(t, seen[[2]byte{ofp.TypeMultipartReply, typ}], "multipart %d", typ)
	}
	for _, typ := range []byte{ofp.TypeHello, ofp.TypeError, ofp.TypeEchoReply, ofp.TypeExperimenter, ofp.TypeFeaturesReply, ofp.TypeGetConfigReply,
		ofp.TypePacketIn, ofp.TypeFlowRemoved, ofp.TypePortStatus, ofp.TypeBarrierReply, ofp.TypeRoleReply, ofp.TypeGetAsyncReply} {
		require.Positive(t, seen[[2]byte{typ}], "type %d", typ)
	}
}

// checkBytes reads and writes one message.
func checkBytes(t *testing.T, b []byte) {
	t.Helper()
	xid, m, err := ofctl.Decode(b)
	require.NoError(t, err, "%x", b)
	again, err := ofctl.Encode(nil, xid, m)
	require.NoError(t, err, "%x", b)
	switch m.(type) {
	case ofctl.Hello: // of a higher version
	case ofctl.PacketIn, ofctl.FlowRemoved, ofctl.Part[ofctl.FlowStat], ofctl.Part[ofctl.TableFeatures], ofctl.Part[ofctl.Meter]:
		// Fields and properties come in another order, and a burst that no flag asked for.
		_, m2, err := ofctl.Decode(again)
		require.NoError(t, err)
		require.Equal(t, m, m2)
	default:
		require.Equal(t, b, again, "%T", m)
	}
}

// provokeAll makes the switch send one of everything.
func provokeAll(t *testing.T, s *ovstest.Switch, c *ofctl.Conn) {
	events, _ := watch(t, c)
	s.Port("br0", "w0", "w1")
	port := await(t, events, func(e ofctl.PortStatus) bool { return e.Port.Name == "w0" }).Port
	group := ofctl.Group{ID: 1, Type: ofctl.GroupSelect, Buckets: []ofctl.Bucket{{Weight: 2, Actions: []ofctl.Action{ofctl.Output{Port: port.No}}}, {Weight: 1}}}
	require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 10, Burst: 5}}}))
	require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Meter: ofctl.Meter{ID: 4, Kilobits: true, Rate: 10}}}))
	mods := []ofctl.Mod{ofctl.GroupMod{Group: group}}
	for i, row := range flowTexts() {
		f := row.flow
		f.Priority = uint16(1000 + i)
		mods = append(mods, ofctl.FlowMod{Flow: f})
	}
	mods = append(mods, ofctl.FlowMod{Flow: ofctl.Flow{Table: 7, Meter: 3, SendFlowRemoved: true}},
		ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: 7}})
	require.NoError(t, c.Apply(t.Context(), mods))
	await(t, events, func(ofctl.FlowRemoved) bool { return true })
	require.Error(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.GroupMod{Group: group}}), "it is there already")

	require.NotZero(t, answered(t, c, ofctl.FeaturesRequest{}).DatapathID)
	require.EqualValues(t, 0xffff, answered(t, c, ofctl.ConfigRequest{}).MissSendLen)
	require.Equal(t, "hi", string(answered(t, c, ofctl.EchoRequest{Data: []byte("hi")}).Data))
	answered(t, c, ofctl.BarrierRequest{})
	require.Equal(t, ofctl.RoleEqual, answered(t, c, ofctl.RoleRequest{}).Role)
	require.Equal(t, ofctl.AllEvents(), answered(t, c, ofctl.AsyncRequest{}).Master)
	require.Contains(t, answered(t, c, ofctl.DescRequest{}).Hardware, "Open vSwitch")
	n := len(flowTexts())
	require.Len(t, answered(t, c, ofctl.AllFlows), n)
	require.EqualValues(t, n, answered(t, c, ofctl.AggregateRequest{FlowFilter: ofctl.AllFlows}).Flows)
	require.EqualValues(t, 1, answered(t, c, ofctl.AggregateRequest{FlowFilter: ofctl.FlowFilter{Table: 10, OutPort: 3}}).Flows)
	require.Len(t, answered(t, c, ofctl.TableStatsRequest{}), 254)
	require.True(t, slices.ContainsFunc(answered(t, c, ofctl.PortDescRequest{}), func(p ofctl.Port) bool {
		return p.No == port.No && p.MAC == port.MAC
	}))
	require.Equal(t, port.No, answered(t, c, ofctl.PortStatsRequest{Port: port.No})[0].Port)
	require.Empty(t, answered(t, c, ofctl.QueueStatsRequest{Queue: ofctl.QueueAll}))
	stats := answered(t, c, ofctl.GroupStatsRequest{Group: ofctl.GroupEvery})
	require.Len(t, stats, 1)
	require.Len(t, stats[0].Buckets, 2)
	require.Equal(t, []ofctl.Group{group}, answered(t, c, ofctl.GroupDescRequest{}))
	require.EqualValues(t, 0xf, answered(t, c, ofctl.GroupFeaturesRequest{}).Types)
	require.Len(t, answered(t, c, ofctl.MeterStatsRequest{}), 2)
	require.Equal(t, []ofctl.Meter{{ID: 4, Kilobits: true, Rate: 10}}, answered(t, c, ofctl.MeterConfigRequest{ID: 4}))
	require.NotZero(t, answered(t, c, ofctl.MeterFeaturesRequest{}).MaxMeters)
	checkTables(t, answered(t, c, ofctl.TableFeaturesRequest{}))
}

// checkTables: what tables can do is as Open vSwitch's manual says.
func checkTables(t *testing.T, tables []ofctl.TableFeatures) {
	t.Helper()
	require.Len(t, tables, 254)
	require.Len(t, tables[0].Hit.Next, 253)
	kinds := make(map[ofctl.FieldKind]bool)
	for _, o := range tables[0].Match {
		kind, masked := o.Kind()
		kinds[kind] = masked
	}
	require.Contains(t, kinds, ofctl.KindTCPDst)
	require.True(t, kinds[ofctl.KindIPv4Src])
	require.False(t, kinds[ofctl.KindInPort])
}
