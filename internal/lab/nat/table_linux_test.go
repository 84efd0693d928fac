package nat

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

var update = flag.Bool("update", false, "write docs/nat.md's tables anew")

const document = "../../../docs/nat.md"

// patience bounds what nobody is to wait for: a machine may be busy.
const patience = 60 * time.Second

// atOnce is how many links are measured at once: a small machine has no time for all.
const atOnce = 30

// pair is a cell: a link between two places.
type pair struct {
	session int
	a, b    *place
	ka, kb  kind
	direct  bool // it must be
	path    string
}

// mustBeDirect is issue's bound: where it is false a relay will do.
func mustBeDirect(a, b kind) bool {
	if a.v6 != nil && b.v6 != nil && reachable(a.v6, b.v6) {
		return true
	}
	return a.v4 != nil && b.v4 != nil && reachable(a.v4, b.v4)
}

// reachable: one end needs a mapping that the other can know, and to let in another that it
// cannot know.
func reachable(a, b *Probed) bool {
	if !a.UDP || !b.UDP {
		return false
	}
	switch {
	case a.Mapping == EndpointIndependent && b.Mapping == EndpointIndependent:
		return true
	case a.Mapping == EndpointIndependent:
		return a.Filtering != AddressAndPortDependent
	case b.Mapping == EndpointIndependent:
		return b.Filtering != AddressAndPortDependent
	}
	return false
}

// opening is how a kind's transports are opened.
func (w *world) opening(session int, k kind) Opening {
	o := Opening{Session: session}
	at := [2]netip.Addr{servers6[0], servers6[1]}
	if k.v4 != nil {
		at = servers4
	}
	turn := netip.AddrPortFrom(at[0], turnPort)
	o.Signal = netip.AddrPortFrom(at[1], tlsPort).String()
	for _, url := range []string{"turn:" + turn.String(), "turn:" + turn.String() + "?transport=tcp", "turns:" + netip.AddrPortFrom(at[0], tlsPort).String()} {
		o.Relays = append(o.Relays, Server{URL: url, Secret: secret, CA: w.ca})
	}
	o.STUN = []string{turn.String(), netip.AddrPortFrom(at[1], probePort).String()}
	return o
}

// link makes a pair's link.
func (w *world) link(p *pair) error {
	return p.link(w.opening(p.session, p.ka), w.opening(p.session, p.kb))
}

func (p *pair) link(a, b Opening) error {
	var ida, idb overlay.PeerID
	if err := p.a.Call("node.Open", a, &ida); err != nil {
		return err
	}
	if err := p.b.Call("node.Open", b, &idb); err != nil {
		return err
	}
	accepted := p.b.Go("node.Accept", p.session, &Nothing{}, nil)
	if err := p.a.Call("node.Dial", Dialling{p.session, idb}, &Nothing{}); err != nil {
		return err
	}
	return (<-accepted.Done).Error
}

// unlink ends it.
func (p *pair) unlink() error {
	return errors.Join(p.a.Call("node.Close", p.session, &Nothing{}), p.b.Call("node.Close", p.session, &Nothing{}))
}

// measure links a pair and finds out what becomes of it. A link that is lost, since the machine
// is busy, is made again.
func (w *world) measure(p *pair) (err error) {
	for range 3 {
		if err = w.measureOnce(p); err == nil {
			return p.unlink()
		}
		_ = p.unlink()
	}
	return err
}

// measureOnce is one try; it also looks whether the link carries.
func (w *world) measureOnce(p *pair) error {
	if err := w.link(p); err != nil {
		return fmt.Errorf("%s to %s: %w", p.ka.name, p.kb.name, err)
	}
	want := Settling{Session: p.session, Refusals: 1, Patience: patience}
	if p.direct {
		want.Refusals = 1 << 30
	}
	var at, from Path
	err := p.a.Call("node.Settle", want, &at)
	if err == nil {
		err = p.a.Call("node.Exchange", p.session, &Nothing{})
	}
	if err == nil {
		err = p.b.Call("node.Path", p.session, &from)
	}
	if err != nil {
		return fmt.Errorf("%s to %s: %w", p.ka.name, p.kb.name, err)
	}
	if at.Relay != from.Relay {
		return fmt.Errorf("%s to %s: one end is by a relay, and one is not: %+v %+v", p.ka.name, p.kb.name, at, from)
	}
	p.path = "direct"
	if at.Relay {
		p.path = "relay"
	}
	for i, end := range []Path{at, from} {
		k, over := []kind{p.ka, p.kb}[i], transportOf(end.Local)
		if !k.sends(over) {
			return fmt.Errorf("%s to %s: %s cannot use a relay over %q: %+v", p.ka.name, p.kb.name, k.name, over, end)
		}
		if !k.sends("UDP") { // what it must be, and not what it happened to be on a busy machine
			p.path += ", " + map[bool]string{true: "TCP", false: "TLS"}[k.sends("TCP")]
		} else if over != "" && over != "UDP" {
			w.t.Logf("%s to %s: %s uses a relay over %s", p.ka.name, p.kb.name, k.name, over)
		}
	}
	return nil
}

// sends tells whether a relay over that, or none, is what such a place can use.
func (k kind) sends(over string) bool {
	see := k.v4
	if see == nil {
		see = k.v6
	}
	return map[string]bool{"": see.UDP, "UDP": see.UDP, "TCP": see.TCP, "TLS": see.TLS}[over]
}

// TestIntegrationTable: links over each pair of kinds are direct where they
// must be, and docs/nat.md says what they are.
func TestIntegrationTable(t *testing.T) {
	w := newWorld(t)
	list := kinds()
	places := [2][]*place{}
	for _, k := range list {
		for i := range places {
			places[i] = append(places[i], k.make(w))
			w.start(places[i][len(places[i])-1])
		}
	}
	var pairs []*pair
	for i, a := range list {
		for j, b := range list[:i+1] {
			pairs = append(pairs, &pair{session: len(pairs), a: places[0][i], b: places[1][j], ka: a, kb: b, direct: mustBeDirect(a, b)})
		}
	}
	pairs = append(pairs, w.siblings(len(pairs))...)
	start := time.Now()
	room := make(chan struct{}, atOnce)
	require.NoError(t, each(pairs, func(_ int, p *pair) error {
		room <- struct{}{}
		defer func() { <-room }()
		return w.measure(p)
	}))
	t.Logf("%d links, %v", len(pairs), time.Since(start).Round(time.Millisecond))
	n := len(list) * (len(list) + 1) / 2
	documented(t, "pairs", matrix(list, pairs[:n]))
	documented(t, "siblings", rows(pairs[n:]))
	documented(t, "kinds", legend(list))
}

// siblings are pairs behind one NAT.
func (w *world) siblings(session int) (list []*pair) {
	type family struct {
		name    string
		hairpin bool
		direct  bool
	}
	for _, f := range []family{{"one that hairpins", true, true}, {"one that does not", false, false}} {
		i := w.number()
		r := w.router(i, Router{Hairpin: f.hairpin}, true, false)
		a, b := w.lan(r, i, 1, true, false), w.lan(r, i, 2, true, false)
		k := natKind("networks of their own behind "+f.name, "", Router{})
		w.start(a, b)
		list = append(list, &pair{session: session + len(list), a: a, b: b, ka: k, kb: k, direct: f.direct})

		i = w.number()
		r = w.router(i, Router{Hairpin: f.hairpin}, true, false)
		a, b = w.home(w.lan(r, i, 1, true, false), Router{}, i, 101), w.home(w.lan(r, i, 2, true, false), Router{}, i, 102)
		k = natKind("full cones of their own behind "+f.name, "", Router{})
		w.start(a, b)
		list = append(list, &pair{session: session + len(list), a: a, b: b, ka: k, kb: k, direct: f.direct})
	}
	i := w.number()
	r := w.router(i, portRestricted, true, false)
	a, b := w.neighbours(r, i)
	k := natKind("one network behind one that does not", "", portRestricted)
	w.start(a, b)
	return append(list, &pair{session: session + len(list), a: a, b: b, ka: k, kb: k, direct: true})
}

func matrix(list []kind, pairs []*pair) string {
	var b strings.Builder
	for _, k := range list {
		b.WriteString(" | " + k.name)
	}
	b.WriteString(" |\n|---" + strings.Repeat("|---", len(list)) + "|\n")
	for i, k := range list {
		cells := make([]string, len(list))
		for j := range cells[:i+1] {
			p := pairs[i*(i+1)/2+j]
			if cells[j] = p.path; p.direct {
				cells[j] = "**" + p.path + "**"
			}
		}
		b.WriteString("| " + k.name + " | " + strings.Join(cells, " | ") + " |\n")
	}
	return "| " + b.String()
}

func rows(pairs []*pair) string {
	var b strings.Builder
	b.WriteString("| Both in | |\n|---|---|\n")
	for _, p := range pairs {
		path := p.path
		if p.direct {
			path = "**" + path + "**"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", p.ka.name, path)
	}
	return b.String()
}

func legend(list []kind) string {
	var b strings.Builder
	b.WriteString("| Kind | What it is |\n|---|---|\n")
	for _, k := range list {
		fmt.Fprintf(&b, "| %s | %s |\n", k.name, k.text)
	}
	return b.String()
}

// documented compares a part of the document, or writes it.
func documented(t *testing.T, part, want string) {
	t.Helper()
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), "<!-- "+part+" -->\n")
	require.True(t, ok, "%s has no %s", document, part)
	got, after, ok := strings.Cut(rest, "<!-- end -->")
	require.True(t, ok)
	if *update {
		parts := []string{before, "<!-- " + part + " -->\n", want, "<!-- end -->", after}
		require.NoError(t, os.WriteFile(document, []byte(strings.Join(parts, "")), 0o644))
		return
	}
	require.Equal(t, want, got, "%s is not what was measured (-update writes it anew)", document)
}
