package ofctl

import (
	"context"
	"encoding/binary"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// probe finds the switch's capabilities: it puts one flow for each into a bundle
// and discards the bundle. A switch checks what it adds to a bundle, so each
// refusal shows what it lacks, and no table is touched.
func (c *Conn) probe(ctx context.Context) (Capabilities, error) {
	probes := []struct {
		is  Capabilities
		mod any
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
		b, err := Encode(b, xid, ofp.BundleControl{ID: id, Type: ofp.BundleOpen, Flags: bundleFlags})
		for _, p := range probes {
			xid++
			if err != nil {
				return b, err
			}
			b, err = appendProbe(b, xid, id, p.mod)
		}
		if err != nil {
			return b, err
		}
		return Encode(b, xid+1, ofp.BundleControl{ID: id, Type: ofp.BundleDiscard, Flags: bundleFlags})
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

// checkPktLarger stands for a flow with OVS's check_pkt_larger action, for which
// this package has no value.
type checkPktLarger struct{}

// appendProbe is Encode of a bundle-add of mod.
func appendProbe(b []byte, xid, id uint32, mod any) ([]byte, error) {
	if _, ok := mod.(checkPktLarger); !ok {
		return Encode(b, xid, ofp.BundleAdd{ID: id, Flags: bundleFlags, Mod: mod})
	}
	start := len(b)
	b, err := Encode(b, xid, ofp.BundleAdd{ID: id, Flags: bundleFlags, Mod: probeFlow(nil)})
	if err != nil {
		return b, err
	}
	// Instruction apply_actions with NXAST_CHECK_PKT_LARGER (49):
	// check_pkt_larger(1500)->NXM_NX_REG0[0].
	be := binary.BigEndian
	b = be.AppendUint64(b, instrApply<<48|32<<32)
	b = be.AppendUint64(b, 0xffff<<48|24<<32|ofp.ExperimenterNicira)
	b = be.AppendUint64(b, 49<<48|1500<<32|0<<16|0x0001) // length, bit, field's class
	b = be.AppendUint64(b, 0x0004<<48)
	const inner = ofp.HeaderLen + 16 // where the flow-mod starts
	be.PutUint16(b[start+2:], uint16(len(b)-start))
	be.PutUint16(b[start+inner+2:], uint16(len(b)-start-inner))
	return b, nil
}
