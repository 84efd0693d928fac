package underlay

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/bypass"
)

func TestParseSpans(t *testing.T) {
	for text, want := range map[string][]span{
		"":                      nil,
		"\n":                    nil,
		"8080":                  {{8080, 8080}},
		"61440-65535\n":         {{61440, 65535}},
		"1-2,7,60000-60001":     {{1, 2}, {7, 7}, {60000, 60001}},
		"0-65535":               {{0, 65535}},
		"32768-60999,8472-8472": {{32768, 60999}, {8472, 8472}},
	} {
		got, err := parseSpans(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, bad := range []string{"x", "1-", "-1", "5-4", "65536", "1,,2", "1-2-3"} {
		_, err := parseSpans(bad)
		require.Error(t, err, bad)
	}
}

func TestExposed(t *testing.T) {
	r := bypass.DefaultPorts
	require.Equal(t, 0, exposed(r, span{32768, 60999}, nil), "Linux's default")
	require.Equal(t, 4096, exposed(r, span{1024, 65535}, nil))
	require.Equal(t, 0, exposed(r, span{1024, 65535}, []span{{61440, 65535}}))
	require.Equal(t, 96, exposed(r, span{1024, 65535}, []span{{61440, 65439}}))
	require.Equal(t, 1, exposed(r, span{1024, 65535}, []span{{61441, 65535}, {1, 2}}))
	require.Equal(t, 0, exposed(r, span{65535, 65535}, []span{{65535, 65535}}))
}

func TestParseSockets(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:F03C 00000000:0000 0A
   2: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A
   3: 0000000000000000FFFF00000100630A:FFFF 0000:0000 0A
   4: zz:1 x
   5: 0100:0001 x`
	require.Equal(t, []netip.AddrPort{
		netip.MustParseAddrPort("127.0.0.1:8080"),
		netip.MustParseAddrPort("0.0.0.0:61500"),
		netip.MustParseAddrPort("[::1]:22"),
		netip.MustParseAddrPort("10.99.0.1:65535"),
	}, parseSockets(text))
}

func TestDropsIngress(t *testing.T) {
	const base = "\t\ttype filter hook ingress device \"eth0\" priority -500; policy accept;\n"
	table := func(family, lines string) string {
		return "table " + family + " t {\n\tchain a {\n" + lines + "\t}\n}\n"
	}
	for name, c := range map[string]struct {
		rules string
		want  bool
	}{
		"nothing":           {"", false},
		"policy drop":       {table("netdev", strings.Replace(base, "accept", "drop", 1)), true},
		"list of devices":   {table("netdev", "\t\ttype filter hook ingress devices = { \"lo\", \"eth0\" } priority -500; policy drop;\n"), true},
		"unquoted":          {table("netdev", "\t\ttype filter hook ingress devices = { lo, eth0 } priority 0; policy drop;\n"), true},
		"other device":      {table("netdev", "\t\ttype filter hook ingress device \"eth01\" priority -500; policy drop;\n"), false},
		"inet family":       {table("inet", strings.Replace(base, "accept", "drop", 1)), false},
		"egress":            {table("netdev", "\t\ttype filter hook egress device \"eth0\" priority 0; policy drop;\n"), false},
		"accept only":       {table("netdev", base), false},
		"drop":              {table("netdev", base+"\t\tdrop\n"), true},
		"counter drop":      {table("netdev", base+"\t\tether type arp accept\n\t\tcounter packets 7 bytes 9 drop\n"), true},
		"conditional drop":  {table("netdev", base+"\t\tip protocol tcp drop\n"), false},
		"counter then more": {table("netdev", base+"\t\tcounter packets 7 bytes 9 ip protocol tcp drop\n"), false},
		"another chain":     {table("netdev", base+"\t}\n\tchain b {\n\t\tdrop\n"), false},
		"another table":     {table("netdev", base) + table("ip", "\t\tdrop\n"), false},
	} {
		require.Equal(t, c.want, dropsIngress(c.rules, "eth0"), name)
	}
}

func TestTranslating(t *testing.T) {
	for rule, want := range map[string]bool{
		"masquerade": true,
		"oifname \"br0\" counter packets 7 bytes 9 masquerade random":        true,
		"oifname != \"docker0\" ip saddr 172.17.0.0/16 masquerade":           true,
		"oif { \"br0\", \"br1\" } masquerade to :1024-65535":                 true,
		"ip saddr 10.9.0.0/24 snat to 10.0.0.1":                              true,
		"ip saddr 10.9.0.0/24 snat ip to 10.0.0.1:61000-62000":               true,
		"oifname \"br0\" counter packets 0 bytes 0 xt target \"MASQUERADE\"": true,
		"oifname \"br0\" masquerade to :1024-61439":                          false,
		"ip saddr 10.9.0.0/24 snat to 10.0.0.1:1024-61439":                   false,
		"oifname \"docker0\" masquerade":                                     false,
		"oifname { \"br1\", \"br2\" } masquerade":                            false,
		"oifname \"br0\" snat ip6 to fd00::1":                                true,
		"oifname \"br0\" snat ip6 to [fd00::1]:60000-62000":                  true,
		"oifname \"br0\" snat ip6 to [fd00::1]:1024-61439":                   false,
		"jump masquerade": false,
		"chain snat {":    false,
		"counter packets 0 bytes 0 accept comment \"masquerade\"": false,
		"tcp dport 80 dnat to 10.0.0.1":                           false,
	} {
		got := translating("table inet nat {\n\tchain out {\n\t\t"+rule+"\n\t}\n}\n", "br0", bypass.DefaultPorts)
		if want {
			require.Equal(t, []string{rule}, got)
		} else {
			require.Empty(t, got, rule)
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("61440-65535,8080")
	f.Add("   0: 0100007F:1F90 00000000:0000 0A")
	f.Add("table netdev t {\n\tchain a {\n type filter hook ingress device \"eth0\" priority 0; policy drop;")
	f.Fuzz(func(t *testing.T, text string) {
		if spans, err := parseSpans(text); err == nil {
			for _, s := range spans {
				require.LessOrEqual(t, s.first, s.last)
			}
		}
		for _, s := range parseSockets(text) {
			require.True(t, s.IsValid())
		}
		for _, rule := range translating(text, "eth0", bypass.DefaultPorts) {
			require.Contains(t, text, rule)
		}
		if dropsIngress(text, "eth0") {
			require.Contains(t, text, "drop")
			require.Contains(t, text, "eth0")
		}
	})
}
