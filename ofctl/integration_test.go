package ofctl_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// dial connects to a new bridge on a new switch.
func dial(tb testing.TB) (*ovstest.Switch, *ofctl.Conn) {
	tb.Helper()
	s := ovstest.Start(tb)
	c, err := ofctl.Dial(tb.Context(), s.Bridge("br0"), ofctl.Config{})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, c.Close()) })
	return s, c
}

// spell turns a line of ovs-ofctl dump-flows into the words of Flow.String: defaults
// spelt out, and what is no match in front in one order.
func spell(line string) string {
	head, actions, _ := strings.Cut(line, " actions=")
	if head == line {
		head, actions, _ = strings.Cut(line, "actions=")
	}
	meta := map[string]string{"table": "table=0", "priority": "priority=32768"}
	var match []string
	for _, w := range strings.FieldsFunc(head, func(r rune) bool { return r == ',' || r == ' ' }) {
		key, _, _ := strings.Cut(w, "=")
		switch key {
		case "cookie", "table", "priority", "idle_timeout", "hard_timeout", "send_flow_rem", "no_packet_counts", "no_byte_counts":
			meta[key] = w
		default:
			match = append(match, w)
		}
	}
	var words []string
	for _, key := range []string{"cookie", "table", "priority", "idle_timeout", "hard_timeout", "send_flow_rem", "no_packet_counts", "no_byte_counts"} {
		if w := meta[key]; w != "" {
			words = append(words, w)
		}
	}
	return strings.Join(append(words, match...), ",") + " actions=" + actions
}

func TestIntegrationFlowTexts(t *testing.T) {
	s, c := dial(t)
	group := ofctl.Group{ID: 1, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: []ofctl.Action{ofctl.Output{Port: 1}}}}}
	require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.GroupMod{Group: group}}))
	wipe := []ofctl.Mod{ofctl.FlowMod{Command: ofctl.Delete, Flow: ofctl.Flow{Table: ofctl.TableAll}}}
	for _, row := range flowTexts() {
		// What is written natively reads as the literal text.
		require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.FlowMod{Flow: row.flow}}), row.name)
		lines := s.DumpFlows("br0")
		require.Len(t, lines, 1, row.name)
		require.Equal(t, row.text, spell(lines[0]), row.name)
		// What is written as text reads natively as the value.
		require.NoError(t, c.Apply(t.Context(), wipe))
		s.MustOfctl("add-flow", "br0", row.text)
		flows, err := c.Flows(t.Context(), ofctl.AllFlows)
		require.NoError(t, err, row.name)
		require.Len(t, flows, 1, row.name)
		require.False(t, flows[0].Partial, row.name)
		require.Equal(t, row.text, flows[0].Flow.String(), row.name)
		require.True(t, row.flow.Match.Equal(flows[0].Match), row.name)
		require.NoError(t, c.Apply(t.Context(), wipe))
	}
}

func TestIntegrationModTexts(t *testing.T) {
	s, c := dial(t)
	f := ofctl.Flow{Table: 1, Priority: 9, Cookie: 0x70, IdleTimeout: 300, SendFlowRemoved: true, Match: ofctl.IP4(), Apply: []ofctl.Action{ofctl.Normal()}}
	changed, all := f, ofctl.Flow{Table: ofctl.TableAll, Cookie: 0x70}
	changed.Apply = []ofctl.Action{ofctl.ToGroup{ID: 1}}
	group := ofctl.Group{ID: 1, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: []ofctl.Action{ofctl.Output{Port: 1}}}}}
	steps := []ofctl.Mod{
		ofctl.GroupMod{Group: group},
		ofctl.FlowMod{Flow: f},
		ofctl.FlowMod{Command: ofctl.Modify, Flow: changed},
		ofctl.FlowMod{Command: ofctl.ModifyStrict, Flow: f, CookieMask: 0xf0},
		ofctl.FlowMod{Command: ofctl.DeleteStrict, Flow: f},
		ofctl.FlowMod{Flow: f},
		ofctl.FlowMod{Command: ofctl.Delete, Flow: all, CookieMask: 0xf0},
		ofctl.GroupMod{Command: ofctl.Modify, Group: group},
		ofctl.GroupMod{Command: ofctl.Delete, Group: group},
	}
	dump := func() string {
		_, groups, _ := strings.Cut(s.MustOfctl("dump-groups", "br0"), "\n")
		return strings.Join(s.DumpFlows("br0"), "\n") + "\n" + groups
	}
	var native []string
	for _, step := range steps {
		require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{step}))
		native = append(native, dump())
	}
	file := filepath.Join(t.TempDir(), "bundle")
	for i, step := range steps {
		require.NoError(t, os.WriteFile(file, []byte(step.String()+"\n"), 0o600))
		s.MustOfctl("bundle", "br0", file)
		require.Equal(t, native[i], dump(), step.String())
	}
	require.NotEqual(t, native[0], native[1])
	require.NotEqual(t, native[1], native[2])
}

func TestIntegrationCapabilities(t *testing.T) {
	s, c := dial(t)
	f := c.Features()
	require.True(t, f.Capabilities.Has(ofctl.CapBundle|ofctl.CapFragMatch|ofctl.CapPortMask|ofctl.CapCheckPktLarger|ofctl.CapTTLMatch|ofctl.CapTether|ofctl.CapMeter))
	require.EqualValues(t, 254, f.Tables)
	require.NotZero(t, f.DatapathID)
	require.Empty(t, s.DumpFlows("br0"), "probing touches no table")
}

func TestIntegrationBundleIsAtomic(t *testing.T) {
	s, c := dial(t)
	good := ofctl.FlowMod{Flow: ofctl.Flow{Table: 1, Apply: []ofctl.Action{ofctl.Normal()}}}
	noGroup := ofctl.FlowMod{Flow: ofctl.Flow{Table: 2, Apply: []ofctl.Action{ofctl.ToGroup{ID: 77}}}}
	group := ofctl.GroupMod{Group: ofctl.Group{ID: 1}}
	noType := ofctl.GroupMod{Group: ofctl.Group{ID: 5, Type: 9}}
	for _, row := range []struct {
		name string
		mods []ofctl.Mod
		want string // part of the error
	}{
		{"refused at commit", []ofctl.Mod{good, noGroup, good}, "step 1 (flow add table=2,priority=0 actions=group:77): ofctl: switch refused: OFPET_BAD_ACTION: OFPBAC_BAD_OUT_GROUP"},
		{"refused when added", []ofctl.Mod{good, noType, good}, "step 1 (group add group_id=5,type=type9): ofctl: switch refused: OFPET_GROUP_MOD_FAILED: OFPGMFC_BAD_TYPE"},
		{"group twice", []ofctl.Mod{good, group, group}, "OFPGMFC_GROUP_EXISTS"},
	} {
		err := c.Apply(t.Context(), row.mods)
		require.ErrorContains(t, err, row.want, row.name)
		var refused *ofctl.SwitchError
		require.ErrorAs(t, err, &refused, row.name)
		require.NotEmpty(t, refused.Request, row.name)
		require.Empty(t, s.DumpFlows("br0"), row.name)
		groups, err := c.Groups(t.Context())
		require.NoError(t, err)
		require.Empty(t, groups, row.name)
	}
	require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{good, group, ofctl.FlowMod{Flow: ofctl.Flow{Table: 2, Apply: []ofctl.Action{ofctl.ToGroup{ID: 1}}}}}))
	require.Len(t, s.DumpFlows("br0"), 2, "the connection is intact")
}

func TestIntegrationSet(t *testing.T) {
	s, c := dial(t)
	s.MustOfctl("add-flow", "br0", "cookie=0x99,table=0,priority=0,actions=NORMAL")
	s.MustOfctl("add-flow", "br0", "cookie=0x99,table=9,priority=7,ct_state=+trk,reg0=1,ip,actions=ct(commit)")
	s.MustOfctl("add-group", "br0", "group_id=500,type=all")
	owner := ofctl.Owner{Cookie: 0x1200, Mask: 0xff00}
	wanted := ofctl.Wanted{GroupIDs: [2]uint32{1, 10}}
	for i, row := range flowTexts() {
		f := row.flow
		f.Cookie, f.Priority = 0x1200|uint64(i), f.Priority+uint16(i)+1000
		wanted.Flows = append(wanted.Flows, f)
	}
	wanted.Groups = []ofctl.Group{{ID: 1, Type: ofctl.GroupIndirect, Buckets: []ofctl.Bucket{{Actions: []ofctl.Action{ofctl.SetField{Field: ofctl.EthDst(macA)}, ofctl.Output{Port: 1}}}}},
		{ID: 2, Type: ofctl.GroupSelect, Buckets: []ofctl.Bucket{{Weight: 3, Actions: []ofctl.Action{ofctl.Output{Port: 1}}}}},
		{ID: 3, Type: ofctl.GroupFastFailover, Buckets: []ofctl.Bucket{{WatchPort: 1, Actions: []ofctl.Action{ofctl.Output{Port: 1}}}}}}
	set := func(want ofctl.Difference) {
		t.Helper()
		got, err := ofctl.Set(t.Context(), c, owner, wanted)
		require.NoError(t, err)
		require.Equal(t, want, got)
		got, err = ofctl.Set(t.Context(), c, owner, wanted)
		require.NoError(t, err)
		require.Zero(t, got, "idempotent")
	}
	n := len(wanted.Flows)
	set(ofctl.Difference{Added: n, GroupsAdded: 3})
	require.Len(t, s.DumpFlows("br0"), n+2)
	wanted.Flows[0].IdleTimeout, wanted.Flows[1].Cookie = 77, 0x12ff
	wanted.Groups[0].Buckets[0].Actions = []ofctl.Action{ofctl.Output{Port: 2}}
	wanted.Flows, wanted.Groups = slices.Delete(wanted.Flows, 2, 5), wanted.Groups[:2]
	set(ofctl.Difference{Modified: 2, Deleted: 3, GroupsModified: 1, GroupsDeleted: 1})
	wanted.Flows = append(wanted.Flows, ofctl.Flow{Cookie: 0x1200, Apply: []ofctl.Action{ofctl.Normal()}})
	set(ofctl.Difference{}) // somebody else's does the same
	wanted.Flows[len(wanted.Flows)-1].Apply = nil
	_, err := ofctl.Set(t.Context(), c, owner, wanted)
	require.ErrorContains(t, err, "somebody else's flow")
	wanted.Flows, wanted.Groups = nil, nil
	set(ofctl.Difference{Deleted: n - 3, GroupsDeleted: 2})
	require.Len(t, s.DumpFlows("br0"), 2, "others' flows stay")
	require.Contains(t, s.MustOfctl("dump-groups", "br0"), "group_id=500")
}

// A meter's text is what ovs-ofctl makes the same meter of, and a flow's names it.
func TestIntegrationMeterTexts(t *testing.T) {
	s, c := dial(t)
	for _, m := range []ofctl.Meter{{ID: 1, Rate: 10}, {ID: 2, Rate: 100, Burst: 7}} {
		s.MustOfctl("-O", "OpenFlow13", "add-meter", "br0", m.String())
		have, err := c.Meters(t.Context())
		require.NoError(t, err)
		require.Contains(t, have, m)
		native := m
		native.ID += 10
		require.NoError(t, c.Apply(t.Context(), []ofctl.Mod{ofctl.MeterMod{Meter: native}}))
		dump := s.MustOfctl("-O", "OpenFlow13", "dump-meter", "br0", "meter="+strconv.Itoa(int(native.ID)))
		require.Contains(t, dump, "rate="+strconv.Itoa(int(m.Rate)))
		f := ofctl.Flow{Priority: 7, Match: ofctl.TCP4(ofctl.InPort(m.ID)), Meter: native.ID, Apply: []ofctl.Action{ofctl.Normal()}}
		s.MustOfctl("-O", "OpenFlow13", "add-flow", "br0", f.String())
		stats, err := c.Flows(t.Context(), ofctl.FlowFilter{Match: f.Match})
		require.NoError(t, err)
		require.Len(t, stats, 1)
		require.Equal(t, f.String(), stats[0].Flow.String())
	}
}
