package nodecfg

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
)

const peerID = "aebagbafaydqqcikbmga2dqpcaireeyuculbogazdinryhi6d4qa"

const good = `{
  "identity": "/var/lib/vias/identity.pem",
  "network": "blue",
  "signal": {"tcp": "10.99.0.1:7401", "serve": "10.99.0.1:7401"},
  "listen": "10.99.0.1:7400",
  "stun": ["stun.example:3478"],
  "relays": [{"url": "turn:relay.example:3478", "username": "u", "password": "p"}, {"url": "turns:relay.example", "secret": "s", "lasting": "10m"}],
  "bridge": "br0",
  "openflow": "unix:/run/openvswitch/br0.mgmt",
  "uplink": "eth0",
  "tap": {"name": "vias0"},
  "endpoints": [{"name": "c1", "port": "c1", "ofport": 11, "mac": "02:77:00:00:00:01", "ips": ["10.77.0.1", "fd77::1"], "tag": "web"}],
  "peers": [{"id": "` + peerID + `"}],
  "policy": {"default": "bypass", "rules": [{"port": 5202, "action": "overlay"}, {"port": 5204, "action": "bypass", "after": 65536, "hold": "1ms", "idle": "9s"}, {"proto": "udp", "port": 443, "action": "bypass", "packets": 40}, {"proto": "udp", "action": "overlay"}]},
  "trust": {"prefixes": ["10.99.0.0/24", "fd99::/64"], "domain": "lab", "max_hops": 1, "max_rtt": "3ms"},
  "lease": "10s",
  "status": "/run/vias/status.sock"
}`

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.json")
	require.NoError(t, os.WriteFile(path, []byte(good), 0o600))
	c, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, "br0", c.UplinkAddrDevice, "default")
	require.Equal(t, 1400, c.TAP.MTU, "default")
	require.Equal(t, "info", c.Log, "default")
	require.Equal(t, bypass.DefaultPorts, bypass.PortRange(c.Ports), "default")
	require.Equal(t, c.Peers[0].ID.Short(), c.Peers[0].Name, "default")
	require.Equal(t, netip.MustParseAddrPort("10.99.0.1:7401"), c.Signal.Serve)
	require.Equal(t, bypass.Trust{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("fd99::/64")}, Domain: "lab",
		MaxHops: 1, MaxRTT: 3 * time.Millisecond}, c.Trust.Bypass())

	text, err := c.JSON()
	require.NoError(t, err)
	again, err := Parse(text)
	require.NoError(t, err, string(text))
	require.Equal(t, c, again, "what it writes it reads")

	_, err = Load(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{`"network"`, `"netwrok"`, `unknown field "netwrok"`},
		{`"blue"`, `7`, `line 3: "network" cannot be a number`},
		{`"blue",`, `"blue"`, "line 4: invalid character"},
		{`"blue"`, `""`, "network: no name"},
		{`"/var/lib/vias/identity.pem"`, `""`, "identity: no path"},
		{`"tcp": "10.99.0.1:7401"`, `"tcp": "10.99.0.1"`, "signal: not an ip:port"},
		{`{"tcp": "10.99.0.1:7401", "serve": "10.99.0.1:7401"}`, `"10.99.0.1:7401"`, `signal: "10.99.0.1:7401" is none of`},
		{`{"tcp": "10.99.0.1:7401", "serve": "10.99.0.1:7401"}`, `"tcp://h:1"`, `signal: "tcp://h:1" has no ADDRESS:PORT`},
		{`{"tcp": "10.99.0.1:7401", "serve": "10.99.0.1:7401"}`, `"nats://h"`, `signal.nats.urls: "nats://h" is neither`},
		{`"tcp": "10.99.0.1:7401"`, `"tpc": "10.99.0.1:7401"`, `signal: unknown field "tpc"`},
		{`"10.99.0.1:7400"`, `"x"`, "listen"},
		{`"10.99.0.1:7400"`, `"10.99.0.1:61440"`, "listen: port 61440 is one of those set aside"},
		{`"serve": "10.99.0.1:7401"`, `"serve": "10.99.0.1:65535"`, "signal.serve: port 65535 is one of those set aside"},
		{`stun.example:3478`, `stun.example`, "stun: "},
		{`turn:relay.example`, `http:relay.example`, "relays: "},
		{`"secret": "s", `, ``, "relays: turns:relay.example: want username and password, or secret"},
		{`"password": "p"`, `"secret": "s", "password": "p"`, "relays: turn:relay.example:3478: want"},
		{`/run/vias/status.sock`, "/" + strings.Repeat("x", 107), "at most 107 bytes"},
		{`"lease": "10s"`, `"lease": "10s", "log": "loud"`, `log: "loud"`},
		{`"lease": "10s"`, `"membership": "/x", "membership_lists": "maybe"`, `membership_lists: "maybe"`},
		{`"lease": "10s"`, `"membership_lists": "warn"`, "membership_lists: there is no membership"},
		{`"10s"`, `"1500ms"`, "lease: want whole seconds"},
		{`"10s"`, `"-10s"`, "lease: "},
		{`"10s"`, `"soon"`, "lease: "},
		{`"bridge": "br0",`, ``, "bridge: none given"},
		{`unix:/run`, `/run`, "openflow:"},
		{`"uplink": "eth0"`, `"uplink": "", "uplink_addr_device": "br0"`, "uplink: none given"},
		{`"uplink": "eth0"`, `"uplink": "", "ovsdb": "none"`, "uplink: without ovsdb"},
		{`"uplink": "eth0"`, `"uplink": "eth0", "ovsdb": "none", "discover": true, "discovery": {"no_learning": true}`, "discovery.no_learning"},
		{`"uplink": "eth0"`, `"uplink": "eth0", "external": {"bridge": "br-ex"}`, "external: want bridge, patch and peer"},
		{`"uplink": "eth0"`, `"uplink": "eth0", "external": {"bridge": "br0", "patch": "a", "peer": "b"}`, "external.bridge"},
		{`"uplink": "eth0"`, `"uplink": "", "external": {"bridge": "br-ex", "patch": "a", "peer": "b"}`, "uplink: with external"},
		{`"bridge": "br0",`, `"external": {"bridge": "br-ex", "patch": "a", "peer": "b"},`, "bridge: none given"},
		{`"uplink": "eth0"`, `"uplink": "eth0", "pipeline": {"mark": "metadata"}`, "no 64 bits"},
		{`"uplink": "eth0"`, `"uplink": "eth0", "pipeline": {"outbound_table": 300}`, "outbound_table"},
		{`"openflow": "unix:/run/openvswitch/br0.mgmt"`, `"ovsdb": "tcp:127.0.0.1:6640"`, "openflow: none given"},
		{`"eth0"`, `"a-very-long-interface"`, "longer than an interface"},
		{`"vias0"`, `"vias/0"`, "tap.name"},
		{`"name": "vias0"`, `"name": "vias0", "mtu": 100`, "tap.mtu: 100"},
		{`"name": "c1", "port"`, `"port"`, "no name given"},
		{`02:77:00:00:00:01`, `03:77:00:00:00:01`, "no station"},
		{`02:77:00:00:00:01`, `02:77`, "not a MAC"},
		{`"port": "c1", "ofport": 11, `, ``, "neither port nor ofport"},
		{`"fd77::1"`, `"10.77.0.1"`, "is there twice"},
		{`"fd77::1"`, `"224.0.0.1"`, "no workload's address"},
		{`"fd77::1"`, `"fe80::1"`, "no workload's address"},
		{`"fd77::1"`, `"fe80::1%eth0"`, "no workload's address"},
		{`"fd77::1"`, `"::1"`, "no workload's address"},
		{`"fd77::1"`, `"::ffff:10.77.0.2"`, "no workload's address"},
		{`"fd77::1"`, `"fd77::1", "fd77:0::1"`, "is there twice"},
		{peerID, strings.Repeat("a", 52), "no id given"},
		{peerID, "x", "not a peer ID"},
		{`[{"id": "` + peerID + `"}]`, `[{"id": "` + peerID + `"}, {"id": "` + peerID + `"}]`, "there twice"},
		{`"default": "bypass"`, `"default": "maybe"`, "policy: default"},
		{`"port": 5202, `, ``, "rule 1 has neither port nor proto"},
		{`"proto": "udp", "port": 443`, `"proto": "sctp", "port": 443`, `rule 3: proto "sctp"`},
		{`"proto": "udp", "port": 443`, `"proto": "tcp", "port": 443`, "rule 3: packets is not for TCP"},
		{`"packets": 40`, `"packets": -1`, "packets is negative"},
		{`"proto": "udp", "action": "overlay"`, `"proto": "udp", "action": "overlay", "packets": 1`, "rule 4: after, packets"},
		{`"action": "overlay"`, `"action": "x"`, "rule 1: action"},
		{`"action": "overlay"`, `"action": "overlay", "after": 1`, "go with action"},
		{`65536`, `-1`, "after is negative"},
		{`"10.99.0.0/24"`, `"10.99.0.1/24"`, "trust.prefixes"},
		{`"fd99::/64"`, `"fd99::1/64"`, "trust.prefixes"},
		{`"fd99::/64"`, `"::ffff:10.99.0.0/120"`, "trust.prefixes"},
		{`"max_hops": 1`, `"max_hops": 300`, "trust.max_hops"},
		{`"lease": "10s"`, `"ports": "61441-65535"`, "range of ports"},
		{`"lease": "10s"`, `"ports": "61440"`, "range of ports"},
		{`"lease": "10s"`, `"ports": "65535-61440"`, "range of ports"},
		{`"lease": "10s"`, `"ports": "0-65535"`, "range of ports"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		require.NotEqual(t, good, text, c.old)
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, c.want, c.new)
		require.NotContains(t, err.Error(), "\n", "one line")
	}
	for text, want := range map[string]string{"": "too early", "{": "too early", good + "{}": "follows", "[]": "cannot be"} {
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// Four lines are a node: all else has a default.
func TestFourLines(t *testing.T) {
	const four = `{
  "identity": "/var/lib/vias/identity.pem",
  "network": "blue/2",
  "signal": "nats://10.99.0.1:4222",
  "membership": "/var/lib/vias/blue"
}`
	c, err := Parse([]byte(four))
	require.NoError(t, err)
	require.Equal(t, Signal{NATS: &NATS{URLs: []string{"nats://10.99.0.1:4222"}}}, c.Signal)
	require.Equal(t, netip.MustParseAddrPort("0.0.0.0:0"), c.Listen)
	require.Equal(t, TAP{Name: "vias0", MTU: 1400}, c.TAP)
	require.Equal(t, "/run/vias/blue%2F2.sock", c.Status)
	for address, want := range map[string]Signal{
		"tls://h:1":           {NATS: &NATS{URLs: []string{"tls://h:1"}}},
		"tcp://10.99.0.1:1":   {TCP: netip.MustParseAddrPort("10.99.0.1:1")},
		"serve://10.99.0.1:1": {Serve: netip.MustParseAddrPort("10.99.0.1:1")},
	} {
		c, err := Parse([]byte(strings.Replace(four, "nats://10.99.0.1:4222", address, 1)))
		require.NoError(t, err)
		require.Equal(t, want, c.Signal)
	}
	c, err = Parse([]byte(strings.Replace(four, `"signal": "nats://10.99.0.1:4222",`, ``, 1)))
	require.NoError(t, err)
	require.Equal(t, Signal{Serve: netip.MustParseAddrPort("0.0.0.0:4222")}, c.Signal, "it is the rendezvous itself")
	text, err := c.JSON()
	require.NoError(t, err)
	again, err := Parse(text)
	require.NoError(t, err, string(text))
	require.Equal(t, c, again)
}

func TestPolicy(t *testing.T) {
	c, err := Parse([]byte(good))
	require.NoError(t, err)
	f := c.Policy.Func()
	ask := func(src, dst uint16) bypass.Verdict {
		return f(bypass.Request{Flow: bypass.Flow{Proto: bypass.TCP,
			Src: netip.AddrPortFrom(netip.MustParseAddr("10.77.0.1"), src),
			Dst: netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), dst)}})
	}
	require.Equal(t, bypass.Verdict{Bypass: true}, ask(40000, 80))
	require.Equal(t, bypass.Verdict{}, ask(40000, 5202))
	require.Equal(t, bypass.Verdict{}, ask(5202, 40000), "the server's side")
	require.Equal(t, bypass.Verdict{Bypass: true, After: 65536, Hold: time.Millisecond, Idle: 9 * time.Second}, ask(40000, 5204))

	quic := bypass.Request{Flow: bypass.Flow{Proto: bypass.UDP, Src: netip.MustParseAddrPort("[fd77::1]:40000"), Dst: netip.MustParseAddrPort("[fd77::2]:443")}}
	require.Equal(t, bypass.Verdict{Bypass: true, Packets: 40}, f(quic))
	quic.Flow.Proto = bypass.TCP
	require.Equal(t, bypass.Verdict{Bypass: true}, f(quic), "of another protocol")
	dns := bypass.Request{Flow: bypass.Flow{Proto: bypass.UDP, Dst: netip.MustParseAddrPort("[fd77::2]:53")}}
	require.Equal(t, bypass.Verdict{}, f(dns), "all other UDP")

	p, err := ParsePolicy([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, bypass.Verdict{}, p.Func()(bypass.Request{}), "nothing said: overlay")
	_, err = ParsePolicy([]byte(`{"defualt":"bypass"}`))
	require.ErrorContains(t, err, "defualt")
}

func TestPorts(t *testing.T) {
	for text, want := range map[string]Ports{
		"61440-65535": {0xf000, 0xf000}, "32768-65535": {0x8000, 0x8000}, "50000-50000": {50000, 0xffff}, "49152-53247": {0xc000, 0xf000},
	} {
		var p Ports
		require.NoError(t, p.UnmarshalText([]byte(text)))
		require.Equal(t, want, p)
		back, err := p.MarshalText()
		require.NoError(t, err)
		require.Equal(t, text, string(back))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"policy":{"rules":[{"port":1,"action":"bypass","hold":"1ns"}]},"ports":"1-1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			require.NotContains(t, err.Error(), "\n", "one line")
			return
		}
		b, err := c.JSON()
		require.NoError(t, err)
		again, err := Parse(b)
		require.NoError(t, err, "%s", b)
		require.Equal(t, c.Ports, again.Ports)
		require.Equal(t, c.Policy, again.Policy)
		require.NotEqual(t, overlay.PeerID{}, append(again.Peers, Peer{ID: overlay.PeerID{1}})[0].ID)
	})
}

func TestSignal(t *testing.T) {
	const old = `{"tcp": "10.99.0.1:7401", "serve": "10.99.0.1:7401"}`
	for text, want := range map[string]string{
		`{"serve": "10.99.0.1:4222"}`:                           "",
		`{"nats": {"urls": ["nats://h:4222", "tls://g:4222"]}}`: "",
		`{"serve": "10.99.0.1:4222", "store": "/s", "cluster": {"listen": "10.99.0.1:6222", "routes": ["10.99.0.2:6222"], "secret": "/x"}, "tls": {"cert": "/c", "key": "/k"}}`: "",
		`{"nats": {"urls": ["nats://h:4222"], "creds": "/c"}, "tls": {"ca": "/ca"}}`:                                                                                            "",

		`{"tcp": "1.2.3.4:5", "anybody": true}`:                                                             "signal.anybody: this node serves no NATS",
		`{"tcp": "10.99.0.1:0"}`:                                                                            "signal.tcp: no port",
		`{"serve": "10.99.0.1:0"}`:                                                                          "signal.serve: no port",
		`{"serve": "10.99.0.1:65000"}`:                                                                      "signal.serve: port 65000 is one of those set aside",
		`{"tcp": "1.2.3.4:5", "nats": {"urls": ["nats://h:1"]}}`:                                            "tcp and nats are both",
		`{"serve": "1.2.3.4:5", "nats": {"urls": ["nats://h:1"]}}`:                                          "serve and nats are both",
		`{"nats": {"urls": []}}`:                                                                            "urls: none",
		`{"nats": {"urls": ["h:4222"]}}`:                                                                    `"h:4222" is neither`,
		`{"nats": {"urls": ["http://h:4222"]}}`:                                                             "is neither",
		`{"nats": {"urls": ["nats://h"]}}`:                                                                  "is neither",
		`{"nats": {"urls": ["nats://h:1"], "creds": "/a", "nkey": "/b"}}`:                                   "creds and nkey",
		`{"nats": {"urls": ["nats://h:1"], "user": "x"}}`:                                                   `unknown field "user"`,
		`{"nats": {"urls": ["nats://h:1"]}, "store": "/s"}`:                                                 "signal.store: this node serves no NATS",
		`{"nats": {"urls": ["nats://h:1"]}, "cluster": {}}`:                                                 "signal.cluster: this node serves no NATS",
		`{"tcp": "1.2.3.4:5", "serve": "1.2.3.4:5", "cluster": {}}`:                                         "signal.cluster: this node serves no NATS",
		`{"tcp": "1.2.3.4:5", "tls": {}}`:                                                                   "signal.tls: not with",
		`{"serve": "1.2.3.4:5", "tls": {}}`:                                                                 "a server needs cert",
		`{"serve": "1.2.3.4:5", "tls": {"cert": "/c"}}`:                                                     "go together",
		`{"serve": "1.2.3.4:5", "cluster": {}}`:                                                             "cluster.listen: no",
		`{"serve": "1.2.3.4:5", "cluster": {"listen": "1.2.3.4:5"}}`:                                        "want another port",
		`{"serve": "1.2.3.4:5", "cluster": {"listen": "1.2.3.4:65000"}}`:                                    "cluster.routes: no",
		`{"serve": "1.2.3.4:5", "cluster": {"listen": "1.2.3.4:6", "routes": ["h"]}}`:                       "secret: no path",
		`{"serve": "1.2.3.4:5", "cluster": {"listen": "1.2.3.4:6", "routes": ["h"], "secret": "/s"}}`:       "is no HOST:PORT",
		`{"serve": "1.2.3.4:5", "cluster": {"listen": "1.2.3.4:65000", "routes": ["h:1"], "secret": "/s"}}`: "signal.cluster.listen: port 65000",
	} {
		require.Contains(t, good, old)
		c, err := Parse([]byte(strings.Replace(good, old, text, 1)))
		if want != "" {
			require.ErrorContains(t, err, want, text)
			continue
		}
		require.NoError(t, err, text)
		written, err := c.JSON()
		require.NoError(t, err)
		again, err := Parse(written)
		require.NoError(t, err)
		require.Equal(t, c, again, text)
		require.Equal(t, c.Signal.NATS == nil, c.Signal.Embedded())
	}
}
