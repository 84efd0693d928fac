package ofctltest

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl"
)

// randomFlow is any flow, often one that makes no sense.
func randomFlow(r *rand.Rand) ofctl.Flow {
	pick := func(ms ...ofctl.Match) ofctl.Match { return ms[r.IntN(len(ms))] }
	f := ofctl.Flow{
		Table: uint8(r.IntN(4)), Priority: uint16(r.IntN(8)), Clear: r.IntN(8) == 0,
		Match: pick(nil, ofctl.IP4(), ofctl.TCP4(), ofctl.UDP4(), ofctl.ICMP4(), ofctl.ARP(),
			ofctl.IP6(), ofctl.TCP6(), ofctl.UDP6(ofctl.NotFragment()), ofctl.ICMP6(ofctl.ICMP6Type(2)),
			ofctl.Match{ofctl.VLAN(uint16(r.IntN(4)))}, ofctl.Match{ofctl.Untagged()}, ofctl.Match{ofctl.InPort(1)},
			ofctl.TCP4(ofctl.NotFragment()), ofctl.TCP4(ofctl.PortRange(ofctl.TCPDst(0x8000), 0x8000))),
	}
	for range r.IntN(4) {
		f.Apply = append(f.Apply, randomAction(r))
	}
	for range r.IntN(4) {
		f.Write = append(f.Write, randomAction(r))
	}
	if r.IntN(2) == 0 {
		f.Goto = f.Table + 1
	}
	return f
}

func randomAction(r *rand.Rand) ofctl.Action {
	addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, r.Uint32())))
	addr6 := netip.AddrFrom16([16]byte{0xfd, byte(r.Uint32()), 15: byte(r.Uint32())})
	actions := []ofctl.Action{
		ofctl.Output{Port: 1}, ofctl.Output{Port: 2}, ofctl.Normal(), ofctl.ToController(uint16(r.IntN(200))),
		ofctl.Output{Port: ofctl.PortTable}, ofctl.Output{Port: ofctl.PortAll}, ofctl.ToGroup{ID: uint32(1 + r.IntN(3))},
		ofctl.PushVLAN{}, ofctl.PopVLAN{}, ofctl.DecTTL{},
	}
	for _, f := range []ofctl.Field{
		ofctl.IPv4Src(ofctl.Host(addr)), ofctl.IPv4Dst(ofctl.Host(addr)), ofctl.IPv6Src(ofctl.Host(addr6)),
		ofctl.IPv6Dst(ofctl.Host(addr6)), ofctl.TCPSrc(uint16(r.Uint32())), ofctl.TCPDst(uint16(r.Uint32())),
		ofctl.UDPSrc(uint16(r.Uint32())), ofctl.UDPDst(uint16(r.Uint32())), ofctl.TTL(uint8(r.Uint32())),
		ofctl.IPDSCP(uint8(r.IntN(64))), ofctl.IPECN(uint8(r.IntN(4))), ofctl.VLAN(uint16(r.IntN(4))),
		ofctl.EthSrc(macC), ofctl.Metadata(r.Uint64(), 0), ofctl.ARPSPA(ofctl.Host(addr)),
		ofctl.ICMPType(uint8(r.IntN(20))),
	} {
		actions = append(actions, ofctl.SetField{Field: f})
	}
	return actions[r.IntN(len(actions))]
}

// FuzzInput: no frame, through no tables, panics; every frame that had right
// checksums has them when it comes out; the injected frame is not written to; and
// a cached decision does what the tables did.
func FuzzInput(f *testing.F) {
	v6 := [16]byte{0xfd, 15: 1}
	for _, frame := range [][]byte{
		tcpAB(1, 80, "data"), udpAB(1, 53, "odd"), withTag(tcpAB(1, 0x8001, "x"), 3), arp(1, ipA, ipB), frameTo(macB, macA),
		ip4(protoTCP, ipA, ipB, 0x2000, tcp(1, 80, "fragment")), ip4(protoUDP, ipA, ipB, 0x0010, []byte("later")),
		summed(ip6(protoTCP, v6, v6, tcp(1, 2, "x"))), summed(ip6(protoUDP, v6, v6, udp(1, 2, "x"))), tcpAB(1, 2, "")[:40],
		summed(ip4(protoICMP, ipA, ipB, 0, []byte{8, 0, 0, 0, 0, 1, 0, 2, 'p', 'i', 'n', 'g'})),
		summed(ip6(protoICMP6, v6, v6, []byte{2, 0, 0, 0, 0, 0, 5, 0, 0x60, 0})), ip6(44, v6, v6, append([]byte{6, 0, 0, 1, 0, 0, 0, 9}, tcp(1, 2, "x")...)),
		summed(ip6(51, v6, v6, append([]byte{6, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9}, tcp(1, 2, "x")...))),
		ip6(0, v6, v6, []byte{44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9}), {1, 2, 3}, nil,
	} {
		for seed := range uint64(20) {
			f.Add(seed, frame)
		}
	}
	f.Fuzz(func(t *testing.T, seed uint64, frame []byte) {
		r := rand.New(rand.NewPCG(seed, 1))
		var mods []ofctl.Mod
		for id := range uint32(3) {
			g := ofctl.Group{ID: id + 1, Type: ofctl.GroupType(r.IntN(4))}
			for range 1 + r.IntN(2) {
				g.Buckets = append(g.Buckets, ofctl.Bucket{
					Weight: 1, WatchPort: 1 + uint32(r.IntN(3)), Actions: []ofctl.Action{randomAction(r), randomAction(r)},
				})
			}
			mods = append(mods, ofctl.GroupMod{Group: g})
		}
		for range 20 {
			mods = append(mods, ofctl.FlowMod{Flow: randomFlow(r)})
		}
		var out [][]byte
		sw := fuzzSwitch(t, mods, &out)
		in, good := slices.Clone(frame), intact(frame)
		sw.Input(1, frame)
		first := out
		out = nil
		sw.Input(1, frame)
		require.Equal(t, in, frame)
		require.ElementsMatch(t, first, out, "the cache decides otherwise")
		for _, b := range out {
			require.True(t, !good || intact(b), "% x became % x", frame, b)
		}
		require.NoError(t, sw.PacketOut(t.Context(), ofctl.PacketOut{
			Frame: frame, Actions: []ofctl.Action{randomAction(r), ofctl.Output{Port: ofctl.PortTable}},
		}))
	})
}

// fuzzSwitch has two ports and as many of mods as it takes, and appends to out.
func fuzzSwitch(t *testing.T, mods []ofctl.Mod, out *[][]byte) *Switch {
	sw := New(Config{})
	t.Cleanup(func() { require.NoError(t, sw.Close()) })
	for range 2 {
		_, err := sw.AddPort(Port{Output: func(b []byte) { *out = append(*out, b) }})
		require.NoError(t, err)
	}
	for _, m := range mods {
		// Many are nonsense, and refused.
		_ = sw.Apply(t.Context(), []ofctl.Mod{m})
	}
	sw.SetStale(1)
	return sw
}

// intact tells whether a frame has right checksums; fragments have none to check.
func intact(frame []byte) bool {
	if len(frame) < ethLen {
		return false
	}
	return sumsOK(frame)
}
