package lab

import (
	"context"
	"fmt"
	"strings"

	"github.com/viasnet/vias/internal/nodecfg"
)

// Ports and bridges of LayoutPatched, and what marks frames in LayoutForeign.
const (
	inner       = "br-int"
	toInner     = "patch-int" // of bridge
	toOuter     = "patch-ext" // of inner
	foreignMark = 1 << 63
)

// workloads is the bridge that containers and TAP are ports of.
func (l *Lab) workloads() string {
	if l.cfg.Layout == LayoutPatched {
		return inner
	}
	return bridge
}

// patched makes the workloads' bridge and joins it with the uplink's.
func (l *Lab) patched() []string {
	return strings.Fields(fmt.Sprintf("-- add-br %[1]s -- set bridge %[1]s datapath_type=%[5]s fail-mode=standalone -- set port %[1]s trunks=0"+
		" -- add-port %[2]s %[3]s trunks=0 -- set interface %[3]s type=patch options:peer=%[4]s"+
		" -- add-port %[1]s %[4]s trunks=0 -- set interface %[4]s type=patch options:peer=%[3]s",
		inner, bridge, toInner, toOuter, l.cfg.Datapath.ovsType()))
}

// foreignCookie is that of somebody else's pipeline.
const foreignCookie = 0x4d59

// foreignPipeline programs a bridge in the manner of OVN: table 0 tells networks apart in metadata,
// then comes port security, then forwarding, which is NORMAL's, by the tags that the ports have.
func (l *Lab) foreignPipeline(ctx context.Context, h *Host) error {
	flows := []string{
		fmt.Sprintf("table=0,priority=100,in_port=%d,actions=set_field:1->metadata,goto_table:32", ofportUplink),
		"table=0,priority=100,in_port=LOCAL,actions=set_field:1->metadata,goto_table:32",
		"table=0,priority=50,actions=set_field:7->metadata,goto_table:32",
		"table=32,priority=0,actions=goto_table:40",
		"table=40,priority=100,metadata=1,actions=goto_table:41",
		"table=40,priority=100,metadata=7,actions=goto_table:41",
		"table=41,priority=0,actions=NORMAL",
	}
	for _, c := range h.Containers {
		flows = append(flows, fmt.Sprintf("table=32,priority=90,in_port=%d,dl_src=%s,actions=goto_table:40", c.Ofport, c.MAC),
			fmt.Sprintf("table=32,priority=80,in_port=%d,actions=drop", c.Ofport))
	}
	for _, f := range flows {
		if _, err := l.OVS(h.Index).Ofctl(ctx, "add-flow", bridge, fmt.Sprintf("cookie=%#x,%s", foreignCookie, f)); err != nil {
			return err
		}
	}
	_, err := l.OVS(h.Index).Ofctl(ctx, "--strict", "del-flows", bridge, "cookie=0/-1,table=0,priority=0")
	return err
}

// layOut is what of a node's configuration the layout asks for.
func (l *Lab) layOut(h *Host, c *nodecfg.Config) {
	switch l.cfg.Layout {
	case LayoutPatched:
		c.Bridge, c.OpenFlow = inner, l.OVS(h.Index).Mgmt(inner)
		c.External = &nodecfg.External{Bridge: bridge, OpenFlow: l.OVS(h.Index).Mgmt(bridge), Patch: toInner, Peer: toOuter}
		c.UplinkAddrDevice = bridge
	case LayoutForeign:
		c.Pipeline.Mark, c.Pipeline.Priority = foreignMark, 500
	}
}
