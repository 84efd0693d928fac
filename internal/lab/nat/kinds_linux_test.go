package nat

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// kind is a place of docs/nat.md's table.
type kind struct {
	name string
	text string
	make func(*world) *place
	// What it is to be, for each family that it has.
	v4, v6 *Probed
}

// nat is a place behind a router of its own, and what that is to look like.
func natKind(name, text string, r Router) kind {
	return kind{name: name, text: text, make: func(w *world) *place { return w.behind(r) }, v4: &Probed{
		Mapping: r.Mapping, Filtering: r.Filtering, Translated: true, Hairpin: r.Hairpin, UDP: true, TCP: true, TLS: true,
	}}
}

var (
	portRestricted = Router{Filtering: AddressAndPortDependent}
	symmetric      = Router{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent}
)

// firewalled is what IPv6 sees of a router. Without translation there is no hairpin to speak of.
var firewalled = &Probed{Filtering: AddressAndPortDependent, Hairpin: true, UDP: true, TCP: true, TLS: true}

func kinds() []kind {
	blocked := natKind("no UDP", "as port-restricted, and UDP does not get out", Router{Filtering: AddressAndPortDependent, Egress: NoUDP})
	blocked.v4 = &Probed{TCP: true, TLS: true}
	https := natKind("only 443", "as port-restricted, and nothing but TCP to port 443 gets out", Router{Filtering: AddressAndPortDependent, Egress: HTTPS})
	https.v4 = &Probed{TLS: true}
	return []kind{
		{name: "none", text: "an outer IPv4 address of its own", make: (*world).open, v4: &Probed{UDP: true, TCP: true, TLS: true, Hairpin: true}},
		natKind("full cone", "endpoint-independent mapping and filtering", Router{}),
		natKind("address-restricted", "endpoint-independent mapping, address-dependent filtering", Router{Filtering: AddressDependent}),
		natKind("port-restricted", "endpoint-independent mapping, address- and port-dependent filtering: Linux' masquerade", portRestricted),
		natKind("symmetric", "address- and port-dependent mapping and filtering: masquerade fully-random", symmetric),
		{name: "double", text: "port-restricted behind port-restricted", make: func(w *world) *place { return w.double(portRestricted, portRestricted) },
			v4: natKind("", "", portRestricted).v4},
		blocked, https,
		{name: "IPv6", text: "IPv6 alone, behind a firewall that lets in what belongs to a flow from within",
			make: func(w *world) *place { return w.behindFamilies(portRestricted, false, true) }, v6: firewalled},
		{name: "IPv6 and NAT", text: "the same, and IPv4 behind a symmetric NAT",
			make: func(w *world) *place { return w.behindFamilies(symmetric, true, true) }, v6: firewalled, v4: natKind("", "", symmetric).v4},
	}
}

// each runs f for all at once.
func each[T any](list []T, f func(int, T) error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, x := range list {
		wg.Go(func() { errs[i] = f(i, x) })
	}
	wg.Wait()
	var text []string
	for _, err := range errs {
		if err != nil {
			text = append(text, err.Error())
		}
	}
	if len(text) > 0 {
		return fmt.Errorf("%s", strings.Join(text, "\n"))
	}
	return nil
}

// TestIntegrationKinds: each kind of the table, and of the others, is what it says, as RFC 5780
// measures it.
func TestIntegrationKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hairpin := natKind("hairpin", "", Router{Hairpin: true})
	list := append(kinds(), hairpin)
	var places []*place
	for _, k := range list {
		p := k.make(w)
		w.start(p)
		places = append(places, p)
	}
	require.NoError(t, each(list, func(i int, k kind) error {
		for family, want := range map[[2]netip.Addr]*Probed{servers4: k.v4, servers6: k.v6} {
			var got Probed
			err := places[i].Call("node.Probe", family, &got)
			switch {
			case want == nil && err == nil:
				return fmt.Errorf("%s: it has %s", k.name, family[0])
			case want == nil:
			case err != nil:
				return fmt.Errorf("%s: %w", k.name, err)
			case got != *want:
				return fmt.Errorf("%s: it is %+v, and not %+v", k.name, got, *want)
			}
		}
		return nil
	}))
}
