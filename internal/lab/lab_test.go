package lab

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConfig(t *testing.T) {
	c, err := Config{}.normal()
	require.NoError(t, err)
	require.Equal(t, "/run/vias-lab/vias", c.dir())
	hosts := c.plan()
	require.Len(t, hosts, 2)
	require.Equal(t, "vias-h2", hosts[1].Namespace)
	require.Equal(t, "10.99.0.2", hosts[1].Addr.String())
	require.Equal(t, Container{Namespace: "vias-h2c1", Name: "h2c1", Port: "c1", Ofport: 11,
		Addr: netip.MustParseAddr("10.77.0.2"), Addr6: netip.MustParseAddr("fd77::2"), MAC: hosts[1].Containers[0].MAC}, hosts[1].Containers[0])

	require.Equal(t, "fd99::2", hosts[1].Addr6.String())
	for want, c := range map[int]Config{1400: {}, 1300: {UnderlayMTU: 1300}, 1500: {UnderlayMTU: 1460, MTU: 1500}, 9000: {UnderlayMTU: 9000, MTU: 9000}} {
		n, err := c.normal()
		require.NoError(t, err)
		require.Equal(t, want, n.MTU)
		require.Equal(t, DatapathTSO, n.Datapath)
	}

	c, err = Config{Hosts: 3, Containers: 4}.normal()
	require.NoError(t, err)
	seen := map[any]bool{}
	for _, h := range c.plan() {
		for _, w := range h.Containers {
			for _, id := range []any{w.Namespace, w.Addr, w.MAC} {
				require.False(t, seen[id], "%v is there twice", id)
				seen[id] = true
			}
		}
	}
	for _, bad := range []Config{{Prefix: "a/b"}, {Prefix: "-"}, {Hosts: 1}, {Hosts: -1}, {Hosts: 21}, {Containers: -1},
		{Hosts: 20, Containers: 20}, {MTU: 9000}, {MTU: 1}, {Root: "run"},
		{Datapath: DatapathSystem, Beside: true}, {Far: Far{Delay: -1}}, {Far: Far{Loss: 1}}, {Far: Far{Loss: -0.1}},
		{Datapath: "x"}, {UnderlayMTU: 1000}, {UnderlayMTU: 10000}, {UnderlayMTU: 1460, MTU: 1501}, {Datapath: DatapathAFXDP, UnderlayMTU: 9000}} {
		_, err := bad.normal()
		require.ErrorIs(t, err, ErrLab, "%+v", bad)
	}
}

const dump = `OFPST_FLOW reply (OF1.3) (xid=0x2):
 cookie=0x7669617300010001, duration=3.1s, table=0, n_packets=7, n_bytes=70, hard_timeout=25, priority=300,tcp,in_port=11,vlan_tci=0x0000,nw_src=10.77.0.1,nw_dst=10.77.0.2,nw_frag=no actions=goto_table:20
 cookie=0x7669617300010001, duration=3.1s, table=20, n_packets=900, n_bytes=123456, idle_timeout=60, send_flow_rem priority=100,tcp,in_port=11,nw_src=10.77.0.1,nw_dst=10.77.0.2,tp_src=40000,tp_dst=5203 actions=set_field:10.99.0.1->ip_src,set_field:10.99.0.2->ip_dst,set_field:61441->tcp_src,set_field:61442->tcp_dst,group:1
 cookie=0x7669617300010001, duration=3.1s, table=10, n_packets=900, n_bytes=5000, priority=100,tcp,in_port=1,nw_src=10.99.0.1,nw_dst=10.99.0.2,tp_src=61441,tp_dst=61442 actions=set_field:02:77:00:00:01:01->eth_src,set_field:10.77.0.1->ip_src,set_field:10.77.0.2->ip_dst,set_field:40000->tcp_src,set_field:5203->tcp_dst,output:11
 cookie=0x766961736c6162, duration=1s, table=0, n_packets=2, n_bytes=84, priority=60000,arp,in_port=1,arp_tpa=10.77.0.1 actions=output:11
 cookie=0x0, duration=9s, table=0, n_packets=2, n_bytes=84, priority=0 actions=learn(table=1,priority=2,NXM_OF_VLAN_TCI[0..11]),NORMAL
`

func TestParseFlows(t *testing.T) {
	flows := parseFlows(dump)
	require.Len(t, flows, 5)
	require.Equal(t, []string{"learn(table=1,priority=2,NXM_OF_VLAN_TCI[0..11])", "NORMAL"}, flows[4].actions)
	p := pair{client: netip.MustParseAddr("10.77.0.1"), server: netip.MustParseAddr("10.77.0.2"),
		clientHost: netip.MustParseAddr("10.99.0.1"), serverHost: netip.MustParseAddr("10.99.0.2"), port: 5203}
	out, in, native := counters(flows, p.isOutbound), counters(flows, p.isInbound), counters(flows, isNative)
	require.Equal(t, map[string]uint64{"table=20,priority=100,tcp,in_port=11,nw_src=10.77.0.1,nw_dst=10.77.0.2,tp_src=40000,tp_dst=5203": 123456}, out)
	require.Len(t, in, 1)
	require.Len(t, native, 1)
	require.EqualValues(t, 123456, grown(nil, out))
	require.Zero(t, grown(out, out))
	for _, other := range []func(*pair){
		func(p *pair) { p.port = 5202 }, func(p *pair) { p.from = 40001 }, func(p *pair) { p.kind.UDP = true }, func(p *pair) { p.kind.IPv6 = true },
	} {
		q := p
		other(&q)
		require.Empty(t, counters(flows, q.isOutbound))
		require.Empty(t, counters(flows, q.isInbound))
	}
}

// Rules of a UDP flow over IPv6, as Open vSwitch 3.1 prints them.
func TestParseFlowsUDPv6(t *testing.T) {
	flows := parseFlows(` cookie=0x1, duration=3.1s, table=20, n_packets=9, n_bytes=900, priority=100,udp6,in_port=11,ipv6_src=fd77::1,ipv6_dst=fd77::2,tp_src=40000,tp_dst=5203 actions=write_actions(set_field:fd99::1->ipv6_src,set_field:fd99::2->ipv6_dst,set_field:61441->udp_src,set_field:61442->udp_dst,group:1),goto_table:21
 cookie=0x1, duration=3.1s, table=10, n_packets=9, n_bytes=700, priority=100,udp6,in_port=1,ipv6_src=fd99::1,ipv6_dst=fd99::2,tp_src=61441,tp_dst=61442 actions=set_field:fd77::1->ipv6_src,set_field:fd77::2->ipv6_dst,set_field:40000->udp_src,set_field:5203->udp_dst,output:11`)
	p := pair{kind: Kind{UDP: true, IPv6: true}, client: netip.MustParseAddr("fd77::1"), server: netip.MustParseAddr("fd77::2"),
		clientHost: netip.MustParseAddr("fd99::1"), serverHost: netip.MustParseAddr("fd99::2"), port: 5203, from: 40000}
	require.EqualValues(t, 900, grown(nil, counters(flows, p.isOutbound)))
	require.EqualValues(t, 700, grown(nil, counters(flows, p.isInbound)))
}

func TestGrown(t *testing.T) {
	before := map[string]uint64{"a": 10, "b": 100, "gone": 7}
	require.EqualValues(t, 5+3+9, grown(before, map[string]uint64{"a": 15, "b": 3, "new": 9}), "b was made anew")
}

func FuzzParseFlows(f *testing.F) {
	f.Add(dump)
	f.Add("cookie=0x1,table=0 actions=resubmit(,1)),(")
	f.Fuzz(func(t *testing.T, text string) {
		for _, d := range parseFlows(text) {
			require.NotNil(t, d.match)
			require.NotEmpty(t, d.actions)
		}
	})
}

func TestProof(t *testing.T) {
	for want, c := range map[string]struct {
		m Mode
		p Proof
	}{
		"nothing":           {Native, Proof{Sender: 1, Receiver: 1}},
		"rules moved 0.500": {Bypass, Proof{Moved: 1, Sender: 0.5, Receiver: 1}},
		"TAPs moved 0.020":  {Bypass, Proof{Moved: 1, Sender: 1, Receiver: 1, TAPSender: 0.02}},
		"TAPs moved 1.000":  {Overlay, Proof{Moved: 1, TAPSender: 1, TAPReceiver: 0.9}},
	} {
		require.Contains(t, c.p.check(c.m), want)
	}
	require.Empty(t, Proof{Moved: 1, Sender: 1.01, Receiver: 0.995, TAPSender: 0.005}.check(Bypass))
	require.Empty(t, Proof{Moved: 1, TAPSender: 1.01, TAPReceiver: 0.995}.check(Overlay))
}

func TestReport(t *testing.T) {
	sample := func(mbps float64, fail string) Sample { return Sample{Mbps: mbps, RTT: RTT{mbps, mbps}, Fail: fail} }
	samples := map[Mode][]Sample{
		Native:  {sample(100, ""), sample(900, ""), sample(200, "")},
		Overlay: {sample(50, ""), sample(60, "why")},
		Bypass:  {sample(190, ""), sample(1, ""), sample(999, "")},
	}
	r := newReport(samples, map[string]string{"cpus": "2"})
	require.True(t, r.Failed())
	require.InDelta(t, 0.95, r.BypassNativeRatio, 1e-9)
	text, err := json.Marshal(r.Counting())
	require.NoError(t, err)
	require.JSONEq(t, `{"rows":[{"mode":"native","tcp_mbps":200,"rtt_p50_us":200,"rtt_p99_us":200},
		{"mode":"bypass","tcp_mbps":190,"rtt_p50_us":190,"rtt_p99_us":190}],
		"bypass_native_ratio":0.95,"machine":{"cpus":"2"}}`, string(text))
	var out bytes.Buffer
	r.Print(&out)
	require.Regexp(t, `overlay +FAIL .*round 2: why`, out.String())
	require.Contains(t, out.String(), "bypass / native = 0.95")

	samples[Bypass][0].Fail = "x"
	require.Zero(t, newReport(samples, nil).BypassNativeRatio, "no ratio of what does not count")
	delete(samples, Overlay)
	delete(samples, Bypass)
	require.False(t, newReport(samples, nil).Failed())
	require.InDelta(t, 150, median([]float64{200, 100}), 1e-9)
}

func TestPingPong(t *testing.T) {
	hold, end := io.Pipe()
	said, say := io.Pipe()
	served := make(chan error, 1)
	go func() {
		_, err := Child([]string{childMark, "serve", "127.0.0.1:0"}, hold, say)
		served <- err
	}()
	buf := make([]byte, 100)
	n, err := said.Read(buf)
	require.NoError(t, err)
	addr := strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "ready "))
	var out bytes.Buffer
	mine, err := Child([]string{childMark, "ping", addr}, strings.NewReader("go\n"), &out)
	require.True(t, mine)
	require.NoError(t, err)
	_, result, _ := strings.Cut(out.String(), "\n")
	var r RTT
	require.NoError(t, json.Unmarshal([]byte(result), &r))
	require.Positive(t, r.P50Micros)
	require.GreaterOrEqual(t, r.P99Micros, r.P50Micros)
	require.NoError(t, end.Close())
	require.NoError(t, <-served)
	mine, _ = Child([]string{"-hosts", "2"}, nil, nil)
	require.False(t, mine)
}

func TestSites(t *testing.T) {
	private := netip.MustParsePrefix("10.99.0.0/24")
	public := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	c, err := Config{Hosts: 4, Sites: []Site{{Prefix: private, Outside: public("203.0.113.1/24")}, {Prefix: private},
		{Prefix: private, Outside: public("198.51.100.1/24")}}}.normal()
	require.NoError(t, err)
	var where []string
	for _, h := range c.plan() {
		where = append(where, h.Addr.String()+" "+h.Provider+" "+c.site(h.Index).bridge)
	}
	require.Equal(t, []string{"10.99.0.1 vias-net1 net0", "10.99.0.2 vias-net net1", "10.99.0.3 vias-net3 net2",
		"10.99.0.4 vias-net1 net0"}, where, "dealt out in turn; a cloud has a namespace of its own")
	require.Equal(t, "10.99.0.254", c.site(3).gateway().String())
	require.Equal(t, "fd99:0:0:2::fe", c.site(3).gateway6().String())
	require.NotEqual(t, c.site(1).routerMAC(), c.site(2).routerMAC())
	for _, bad := range [][]Site{{}, {{}}, {{Prefix: public("10.0.0.0/16")}}, {{Prefix: public("fd00::/24")}},
		{{Prefix: private, Outside: public("203.0.113.1/32")}}, {{Prefix: private}, {Prefix: private}},
		{{Prefix: private, Outside: public("203.0.113.1/24")}, {Prefix: private, Outside: public("203.0.113.2/24")}},
		{{Prefix: private}, {Prefix: public("10.1.0.0/24")}, {Prefix: public("10.2.0.0/24")}}} {
		_, err := Config{Sites: bad}.normal()
		require.ErrorIs(t, err, ErrLab, "%+v", bad)
	}
}
