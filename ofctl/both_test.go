package ofctl_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ofctltest"
)

// These properties hold of Open vSwitch and of the switch in memory, spoken to over a
// socket.

// place is a switch to connect to, with a port w0.
type place struct{ address string }

func onBoth(t *testing.T, check func(*testing.T, place)) {
	t.Run("memory", func(t *testing.T) {
		sw := ofctltest.New(ofctltest.Config{DatapathID: 42})
		defer sw.Close()
		_, err := sw.AddPort(ofctltest.Port{Name: "w0", MAC: [6]byte{2, 5: 9}})
		require.NoError(t, err)
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- ofctltest.Serve(ctx, l, sw) }()
		defer func() { cancel(); require.NoError(t, <-served) }()
		check(t, place{"unix:" + l.Addr().String()})
	})
	t.Run("Open vSwitch", func(t *testing.T) {
		s := ovstest.Start(t)
		address := s.Bridge("br0")
		s.Port("br0", "w0", "w1")
		check(t, place{address})
	})
}

func (p place) dial(t *testing.T) *ofctl.Conn {
	t.Helper()
	c, err := ofctl.Dial(t.Context(), p.address, ofctl.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// w0 is the port.
func w0(t *testing.T, c *ofctl.Conn) ofctl.Port {
	t.Helper()
	ports, err := c.Ports(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(ports, func(p ofctl.Port) bool { return p.Name == "w0" })
	require.GreaterOrEqual(t, i, 0)
	return ports[i]
}

// Of two connections the second master makes the first a slave.
func TestIntegrationRoles(t *testing.T) {
	onBoth(t, func(t *testing.T, p place) {
		first, second := p.dial(t), p.dial(t)
		role := func(c *ofctl.Conn, r ofctl.Role, generation uint64) (ofctl.RoleReply, error) {
			return ofctl.Ask(t.Context(), c, ofctl.RoleRequest{Role: r, GenerationID: generation})
		}
		reply, err := role(first, ofctl.RoleMaster, 5)
		require.NoError(t, err)
		require.Equal(t, ofctl.RoleReply{Role: ofctl.RoleMaster, GenerationID: 5}, reply)
		_, err = role(second, ofctl.RoleMaster, 4)
		require.ErrorIs(t, err, &ofctl.SwitchError{Type: ofctl.ErrTypeRoleRequestFailed, Code: 0})
		require.ErrorContains(t, err, "OFPET_ROLE_REQUEST_FAILED: OFPRRFC_STALE")
		reply, err = role(second, ofctl.RoleMaster, 6)
		require.NoError(t, err)
		require.Equal(t, ofctl.RoleReply{Role: ofctl.RoleMaster, GenerationID: 6}, reply)
		reply, err = role(first, ofctl.RoleNoChange, 0)
		require.NoError(t, err)
		require.Equal(t, ofctl.RoleSlave, reply.Role)
		mods := []ofctl.Mod{ofctl.FlowMod{}}
		require.ErrorContains(t, first.Apply(t.Context(), mods), "OFPBRC_IS_SLAVE")
		require.ErrorContains(t, first.Apply(t.Context(), []ofctl.Mod{mods[0], mods[0]}), "OFPBRC_IS_SLAVE")
		_, err = first.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err, "a slave may read")
		require.NoError(t, second.Apply(t.Context(), mods))
		reply, err = role(first, ofctl.RoleEqual, 0)
		require.NoError(t, err)
		require.Equal(t, ofctl.RoleEqual, reply.Role)
		require.NoError(t, first.Apply(t.Context(), mods))
	})
}

// A connection gets the events that it asks for.
func TestIntegrationAsync(t *testing.T) {
	onBoth(t, func(t *testing.T, p place) {
		c := p.dial(t)
		events, _ := watch(t, c)
		async := ofctl.SetAsync{Master: ofctl.Async{PacketIn: 2, FlowRemoved: 1 << ofctl.RemovedDelete}, Slave: ofctl.Async{PortStatus: 1}}
		require.NoError(t, c.Send(t.Context(), async))
		require.Equal(t, ofctl.AsyncReply(async), answered(t, c, ofctl.AsyncRequest{}))
		config := ofctl.SetConfig{MissSendLen: 77}
		require.NoError(t, c.Send(t.Context(), config))
		require.Equal(t, ofctl.ConfigReply(config), answered(t, c, ofctl.ConfigRequest{}))
		port := w0(t, c)
		flow := ofctl.FlowMod{Flow: ofctl.Flow{SendFlowRemoved: true}}
		mod := ofctl.PortMod{No: port.No, MAC: port.MAC, Config: ofctl.PortNoReceive, Mask: ofctl.PortNoReceive}
		require.NoError(t, c.Send(t.Context(), flow, mod, ofctl.FlowMod{Command: ofctl.Delete}))
		for {
			e := await(t, events, func(ofctl.Event) bool { return true })
			if _, ok := e.(ofctl.FlowRemoved); ok {
				break
			}
			require.IsType(t, ofctl.PacketIn{}, e, "nothing else was asked for")
		}
	})
}

// A port is configured, and the others are told.
func TestIntegrationPortMod(t *testing.T) {
	onBoth(t, func(t *testing.T, p place) {
		c := p.dial(t)
		events, _ := watch(t, p.dial(t))
		port := w0(t, c)
		mod := ofctl.PortMod{No: port.No, MAC: port.MAC, Config: ofctl.PortNoForward, Mask: ofctl.PortNoForward | ofctl.PortDown}
		require.NoError(t, c.Send(t.Context(), mod, ofctl.TableMod{Table: ofctl.TableAll}))
		await(t, events, func(e ofctl.PortStatus) bool { return e.Reason == ofctl.PortModified && e.Port.NoForward })
		require.True(t, w0(t, c).NoForward)
		mod.MAC[0] ^= 2
		require.ErrorContains(t, c.Send(t.Context(), mod), "OFPET_PORT_MOD_FAILED: OFPPMFC_BAD_HW_ADDR")
		mod.No = 999
		require.ErrorContains(t, c.Send(t.Context(), mod), "OFPET_PORT_MOD_FAILED: OFPPMFC_BAD_PORT")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, c.Send(ctx, mod), context.Canceled)
	})
}

// Of messages that are sent together the refused ones are named, and the others act.
func TestIntegrationSend(t *testing.T) {
	onBoth(t, func(t *testing.T, p place) {
		c := p.dial(t)
		good := func(table uint8) ofctl.FlowMod { return ofctl.FlowMod{Flow: ofctl.Flow{Table: table}} }
		noGroup := ofctl.FlowMod{Flow: ofctl.Flow{Apply: []ofctl.Action{ofctl.ToGroup{ID: 77}}}}
		err := c.Send(t.Context(), good(1), noGroup, good(2))
		require.ErrorContains(t, err, "step 1 (flow add table=0,priority=0 actions=group:77): ofctl: switch refused: OFPET_BAD_ACTION: OFPBAC_BAD_OUT_GROUP")
		flows, err := c.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err)
		require.Len(t, flows, 2)
		require.NoError(t, c.Send(t.Context()))
		require.ErrorContains(t, c.Send(t.Context(), good(3), ofctl.FlowMod{Flow: ofctl.Flow{Match: ofctl.Match{ofctl.TCPDst(1)}}}), "step 1: ")
		require.EqualValues(t, 2, answered(t, c, ofctl.AggregateRequest{FlowFilter: ofctl.AllFlows}).Flows, "nothing was sent")
	})
}

// What the counters count.
func TestIntegrationCounters(t *testing.T) {
	onBoth(t, func(t *testing.T, p place) {
		c := p.dial(t)
		port := w0(t, c)
		require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Meter: ofctl.Meter{ID: 3, Rate: 1000}}}))
		require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{
			ofctl.GroupMod{Group: ofctl.Group{ID: 5, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: []ofctl.Action{ofctl.Output{Port: port.No}}}}}},
			ofctl.FlowMod{Flow: ofctl.Flow{Table: 2, Meter: 3, Apply: []ofctl.Action{ofctl.ToGroup{ID: 5}}}},
			ofctl.FlowMod{Flow: ofctl.Flow{Goto: 2}}}))
		before := answered(t, c, ofctl.PortStatsRequest{Port: port.No})[0]
		require.NoError(t, c.PacketOut(t.Context(), ofctl.PacketOut{Frame: ipv4Frame(64), Actions: []ofctl.Action{ofctl.Output{Port: ofctl.PortTable}}}))
		require.Eventually(t, func() bool {
			now := answered(t, c, ofctl.PortStatsRequest{Port: port.No})
			return len(now) == 1 && now[0].Port == port.No && now[0].TxPackets > before.TxPackets
		}, 10*time.Second, 20*time.Millisecond)
		tables := answered(t, c, ofctl.TableStatsRequest{})
		require.Len(t, tables, 254)
		require.EqualValues(t, []uint32{1, 0, 1}, []uint32{tables[0].Active, tables[1].Active, tables[2].Active})
		groups := answered(t, c, ofctl.GroupStatsRequest{Group: 5})
		require.Len(t, groups, 1)
		require.EqualValues(t, 1, groups[0].References)
		require.Len(t, groups[0].Buckets, 1)
		meters := answered(t, c, ofctl.MeterStatsRequest{})
		require.Len(t, meters, 1)
		require.Equal(t, [2]uint32{3, 1}, [2]uint32{meters[0].ID, meters[0].Flows})
		require.Len(t, meters[0].Bands, 1)
		_, err := ofctl.Ask(t.Context(), c, ofctl.MeterStatsRequest{ID: 9})
		require.ErrorContains(t, err, "OFPMMFC_UNKNOWN_METER")
		require.Empty(t, answered(t, c, ofctl.PortStatsRequest{Port: 999}), "as Open vSwitch has it")
		require.Len(t, answered(t, c, ofctl.TableFeaturesRequest{}), 254)
	})
}
