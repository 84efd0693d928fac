package ofctl

import (
	"context"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// probe finds the switch's capabilities: it puts one flow for each into a bundle
// and discards the bundle. A switch checks what it adds to a bundle, so each
// refusal shows what it lacks, and no table is touched.
func (c *Conn) probe(ctx context.Context) (Capabilities, error) {
	probes := []struct {
		is  Capabilities
		mod Mod
	}{
		{CapFragMatch, probeFlow(IP4(NotFragment()))},
		{CapPortMask, probeFlow(TCP4(PortRange(TCPDst(0xf000), 0xf000)))},
		{CapTTLMatch, probeFlow(IP4(TTL(255)))},
		{CapTether, FlowMod{Flow: Flow{Apply: []Action{Tether{Table: 1}}}}},
		{CapCheckPktLarger, checkPktLarger{}},
	}
	id := c.bundle.Add(1)
	k, err := c.begin(len(probes) + 2)
	if err != nil {
		return 0, err
	}
	_, err = c.send(ctx, k, func(b []byte, xid uint32) ([]byte, error) {
		b, err := Encode(b, xid, BundleControl{ID: id, Type: BundleOpen, Flags: bundleFlags})
		for _, p := range probes {
			xid++
			if err != nil {
				return b, err
			}
			b, err = Encode(b, xid, BundleAdd{ID: id, Flags: bundleFlags, Mod: p.mod})
		}
		if err != nil {
			return b, err
		}
		return Encode(b, xid+1, BundleControl{ID: id, Type: BundleDiscard, Flags: bundleFlags})
	})
	if err != nil {
		return 0, err
	}
	if err := c.wait(ctx, k); err != nil {
		return 0, err
	}
	if k.refusedAt(0) != nil {
		return 0, nil
	}
	found := CapBundle
	for i, p := range probes {
		if k.refusedAt(i+1) == nil {
			found |= p.is
		}
	}
	return found, nil
}

func probeFlow(m Match) FlowMod { return FlowMod{Command: Add, Flow: Flow{Match: m}} }

// checkPktLarger is a flow with OVS's check_pkt_larger action, for which this package
// has no value.
type checkPktLarger struct{ FlowMod }

// appendBody appends the flow with the instruction apply_actions with
// NXAST_CHECK_PKT_LARGER (49): check_pkt_larger(1500)->NXM_NX_REG0[0].
func (m checkPktLarger) appendBody(b []byte, xid uint32) (uint8, []byte, error) {
	typ, b, err := m.FlowMod.appendBody(b, xid)
	return typ, append64(b, instrApply<<48|32<<32,
		0xffff<<48|24<<32|ofp.ExperimenterNicira,
		49<<48|1500<<32|0<<16|0x0001, // length, bit, field's class
		0x0004<<48), err
}
