package discover

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

func dbPort(name, kind string, tag uint16, ofport int64, ids ...string) ovsdb.Port {
	m, sum := map[string]string{}, 0
	for _, c := range name {
		sum = sum*7 + int(c)
	}
	for i := 0; i+1 < len(ids); i += 2 {
		m[ids[i]] = ids[i+1]
	}
	return ovsdb.Port{Name: name, Tag: tag, Interfaces: []ovsdb.Interface{{UUID: "u-" + name, Name: name, Type: kind, Ofport: ofport,
		MAC: fmt.Sprintf("02:00:00:00:99:%02x", sum&255), ExternalIDs: m}}}
}

func TestIdentify(t *testing.T) {
	addrs := func(list ...string) (ips []netip.Addr) {
		for _, a := range list {
			ips = append(ips, netip.MustParseAddr(a))
		}
		return ips
	}
	for name, row := range map[string]struct {
		ids  []string
		want identity
	}{
		"libvirt, OpenStack": {[]string{"attached-mac", "02:00:00:00:00:01", "iface-id", "c0ffee", "vm-id", "x", "iface-status", "active"},
			identity{name: "c0ffee", mac: guest}},
		"OVN-Kubernetes": {[]string{"attached_mac", "02:00:00:00:00:01", "iface-id", "ns_pod", "ip_addresses", "10.1.2.3/24,fd00::1/64"},
			identity{name: "ns_pod", mac: guest, ips: addrs("10.1.2.3", "fd00::1")}},
		"Kube-OVN":   {[]string{"iface-id", "pod.ns", "ip", "10.1.2.3"}, identity{name: "pod.ns", ips: addrs("10.1.2.3")}},
		"Antrea":     {[]string{"attached-mac", "02:00:00:00:00:01", "container-id", "cid", "ip-address", "10.1.2.3"}, identity{name: "cid", mac: guest, ips: addrs("10.1.2.3")}},
		"ovs-docker": {[]string{"container_id", "web", "container_iface", "eth1"}, identity{name: "web/eth1"}},
		"ours": {[]string{"vias-name", "n", "iface-id", "x", "vias-mac", "02-00-00-00-00-01", "vias-ips", "[10.0.0.1 fe80::1]", "vias-tag", "db"},
			identity{name: "n", mac: guest, ips: addrs("10.0.0.1"), tag: "db"}},
		"long tag": {[]string{"vias-tag", strings.Repeat("t", 256)}, identity{bad: "the tag in external_ids is longer than 255 bytes"}},
		"no MAC":   {[]string{"attached-mac", "ff:ff:ff:ff:ff:ff"}, identity{bad: "external_ids: ff:ff:ff:ff:ff:ff is no MAC address of a station"}},
		"no IP":    {[]string{"ip", "10.0.0"}, identity{bad: "external_ids: 10.0.0 is no IP address of a station"}},
		"nothing":  {nil, identity{}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, row.want, identify(dbPort("w1", "", 0, 1, row.ids...)))
			p := dbPort("w1", "", 0, 1, row.ids...)
			p.ExternalIDs, p.Interfaces[0].ExternalIDs = p.Interfaces[0].ExternalIDs, nil
			require.Equal(t, row.want, identify(p), "at the port")
		})
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add("02:00:00:00:00:01", "10.0.0.1/24,fd00::1", "name")
	f.Fuzz(func(t *testing.T, mac, ips, name string) {
		id := identify(dbPort("w1", "", 0, 1, "attached-mac", mac, "ip_addresses", ips, "iface-id", name))
		require.LessOrEqual(t, len(id.ips), maxIPs)
		require.LessOrEqual(t, len(id.name), maxText)
		require.False(t, id.mac.IsMulticast())
		for _, ip := range id.ips {
			require.True(t, usable(ip))
		}
	})
}

// Ports of foreign kinds are never workloads.
func TestForeign(t *testing.T) {
	c := Config{Bridge: "br0", Device: "vias0", Uplink: "eth0", Exclude: []string{"x1"}}
	b := ovsdb.Bridge{Name: "br0", Ports: []ovsdb.Port{dbPort("vias0", "", 7, 2)}}
	bond := dbPort("bond0", "", 7, 9)
	bond.Interfaces = append(bond.Interfaces, bond.Interfaces[0])
	for _, p := range []ovsdb.Port{
		dbPort("br0", "internal", 7, ovsdb.LocalPort, "iface-id", "x"), dbPort("eth0", "", 7, 1), dbPort("vias0", "", 7, 2), dbPort("x1", "", 7, 3), bond,
		dbPort("p1", "patch", 7, 4), dbPort("t1", "vxlan", 7, 5, "iface-id", "x"), dbPort("t2", "geneve", 7, 5), dbPort("t3", "gre", 7, 5),
		dbPort("i1", "internal", 7, 6), dbPort("gw0", "", 7, 6, "antrea-type", "gateway"), dbPort("n1", "", 7, 6, "vias-ignore", "true"),
		dbPort("w8", "", 8, 7), dbPort("w0", "", 0, 7), dbPort("d0", "dpdk", 7, 8),
	} {
		id := identify(p)
		require.NotEmpty(t, c.foreign(b, p, &id), p.Name)
	}
	for _, p := range []ovsdb.Port{
		dbPort("w1", "", 7, 3), dbPort("w2", "system", 7, 3), dbPort("i2", "internal", 7, 3, "iface-id", "x"),
		dbPort("v1", "dpdkvhostuserclient", 7, 3), dbPort("a1", "", 7, 3, "antrea-type", "container"),
	} {
		id := identify(p)
		require.Empty(t, c.foreign(b, p, &id), p.Name)
	}
	w := dbPort("w1", "", 7, 3)
	require.Contains(t, c.foreign(ovsdb.Bridge{Name: "br0"}, w, &identity{}), "no port of the bridge yet")
}

func TestPickUnderlay(t *testing.T) {
	br0, eth0, eth1 := dbPort("br0", "internal", 0, ovsdb.LocalPort), dbPort("eth0", "", 0, 1), dbPort("eth1", "", 0, 2)
	vias0, w1 := dbPort("vias0", "", 7, 3), dbPort("w1", "", 7, 4)
	named := dbPort("w2", "", 0, 5, "iface-id", "x")
	like := func(p ovsdb.Port, o ovsdb.Port) ovsdb.Port {
		p.Interfaces = []ovsdb.Interface{p.Interfaces[0]}
		p.Interfaces[0].MAC = o.Interfaces[0].MAC
		return p
	}
	onBridge := Host{DefaultRoutes: []string{"br0"}, Addressed: []string{"br0", "docker0"}}
	for name, row := range map[string]struct {
		ports []ovsdb.Port
		ids   map[string]string
		host  Host
		want  Underlay
		err   string
	}{
		"the lab's":          {ports: []ovsdb.Port{br0, eth0, vias0, w1}, host: onBridge, want: Underlay{"eth0", "br0", "netdev"}},
		"without a default":  {ports: []ovsdb.Port{br0, eth0, vias0, w1}, host: Host{Addressed: []string{"br0"}}, want: Underlay{"eth0", "br0", "netdev"}},
		"a named workload":   {ports: []ovsdb.Port{br0, eth0, vias0, w1, named}, host: onBridge, want: Underlay{"eth0", "br0", "netdev"}},
		"two":                {ports: []ovsdb.Port{br0, eth0, eth1, vias0}, host: onBridge, err: "these could be it: eth0, eth1"},
		"two, one is alike":  {ports: []ovsdb.Port{br0, eth0, like(eth1, br0), vias0}, host: onBridge, want: Underlay{"eth1", "br0", "netdev"}},
		"two, one is said":   {ports: []ovsdb.Port{br0, eth0, eth1, vias0}, ids: map[string]string{"bridge-uplink": "eth1"}, host: onBridge, want: Underlay{"eth1", "br0", "netdev"}},
		"the route is at it": {ports: []ovsdb.Port{br0, eth0, eth1, vias0}, host: Host{DefaultRoutes: []string{"eth0"}}, want: Underlay{"eth0", "eth0", "netdev"}},
		"none":               {ports: []ovsdb.Port{br0, vias0, w1}, host: onBridge, err: "no port could be it"},
		"no address":         {ports: []ovsdb.Port{br0, eth0, vias0}, host: Host{}, err: "no port of bridge br0 has one"},
		"two addresses":      {ports: []ovsdb.Port{br0, eth0, dbPort("mgmt0", "internal", 0, 9), vias0}, host: Host{Addressed: []string{"br0", "mgmt0"}}, err: "these could be it: br0, mgmt0"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := PickUnderlay(ovsdb.Bridge{Name: "br0", DatapathType: "netdev", Ports: row.ports, ExternalIDs: row.ids}, "vias0", row.host)
			if row.err != "" {
				require.ErrorIs(t, err, ErrAmbiguous)
				require.ErrorContains(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, u)
		})
	}
}

func TestDefaultRoutes(t *testing.T) {
	require.Equal(t, "br0", defaultRoute4("br0\t00000000\t0100010A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"))
	require.Empty(t, defaultRoute4("br0\t0000010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"))
	require.Empty(t, defaultRoute4("Iface\tDestination\tGateway\tFlags\n"))
	zeros := "00000000000000000000000000000000"
	require.Equal(t, "br0", defaultRoute6(zeros+" 00 "+zeros+" 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     br0\n"))
	require.Empty(t, defaultRoute6(zeros+" 00 "+zeros+" 00 "+zeros+" ffffffff 00000001 00000000 00200200       lo\n"), "unreachable")
	_, err := ThisHost()
	require.NoError(t, err)
}
