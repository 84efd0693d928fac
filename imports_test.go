package vias

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/viasnet/vias"

// listed is a package as go list -json prints it.
type listed struct {
	ImportPath                 string
	Imports, Deps, TestImports []string
	XTestImports               []string
}

// room is a rule for a package and the packages below it (or, if it ends in "!",
// for itself alone).
type room struct {
	path string
	// may are the packages of this module that it may import; "…" = that and below.
	may []string
	why string
}

var rooms = []room{
	{"tap!", nil, "tap is the ground floor: everything stands on it, it stands on nothing of ours"},
	{"internal/spare", nil, "a free list knows nothing of what is in it"},
	{"tap/taptest", []string{"tap"}, "a fake device needs to know devices only"},
	{"overlay!", []string{"tap"}, "overlay holds contracts; an implementation would drag its dependencies to everybody"},
	{"overlay/overlaytest", []string{"overlay", "tap"}, "the suite must run against any transport, so it knows none"},
	{"overlay/icedtls", []string{"overlay", "tap", "internal/…"}, "a transport knows the contracts, not who uses it"},
	{"overlay/membership", []string{"overlay"}, "who belongs to a network has nothing to do with how links are made; X.509 is the standard library's"},
	{"overlay/tcpsignal", []string{"overlay", "tap"}, "signalling is not trusted and needs no more than the contract"},
	{"overlay/natssignal", []string{"overlay", "tap"}, "signalling is not trusted and needs no more than the contract"},
	{"overlay/xmppsignal", []string{"overlay", "tap"}, "signalling is not trusted and needs no more than the contract"},
	{"overlay/sealed", []string{"overlay", "tap"}, "an envelope knows neither what is in it nor who carries it"},
	{"bypass!", []string{"overlay", "tap", "internal/seg"}, "bypass must not know which switch there is: Datapath is the only way to one"},
	{"bypass/ofpath", []string{"bypass", "ofctl", "tap"}, "ofpath turns rules into OpenFlow, and nothing else"},
	{"bypass/bypasstest", []string{"bypass", "tap", "internal/seg"}, "the suite must run against any datapath, so it knows none"},
	{"ofctl", []string{"ofctl/…"}, "ofctl is an OpenFlow client for anybody: it must not know vias"},
	{"discover", []string{"ofctl", "ofctl/ovs/ovsdb", "tap"}, "discovery tells a Sink what it found, and knows no Network and no bypass"},
	{"ofctl/ovs/ovsdb!", nil, "a database client needs nothing of ours"},
	{".", []string{"overlay", "bypass", "tap", "internal/control", "internal/flowtable", "internal/l2", "internal/pump"},
		"the root composes contracts: a host program pays only for the parts that it plugs in"},
	{"internal/l2", []string{"overlay", "tap"}, "who speaks for an address has nothing to do with how frames travel"},
	{"internal/control", []string{"internal/l2", "tap"}, "the control protocol is a state machine without I/O"},
	{"internal/flowtable", []string{"bypass", "overlay"}, "the flow table forwards nothing"},
	{"internal/pump", []string{"bypass", "overlay", "tap", "internal/control", "internal/flowtable", "internal/l2", "internal/seg", "internal/spare"}, "the pumps move frames between contracts"},
	{"internal/seg", []string{"tap"}, "segmenting needs to know frames only"},
	{"bench/internal/measure", []string{"bench", "overlay", "tap", "internal/lab", "internal/nodeapi", "internal/nodecfg"},
		"it measures nodes from outside, as programs; the lab is where they stand beside switches"},
	{"examples/cni", []string{"internal/nodeapi", "internal/nodecfg", "ofctl/ovs", "overlay", "tap"}, "the plugin is short-lived and talks to a node that runs: it holds none"},
	{"bypass/underlay", []string{"bypass", "tap", "internal/…"}, "the underlay is one implementation of bypass.Underlay"},
}

// owners are outside modules that one package alone may import.
var owners = []struct{ prefix, owner, why string }{
	{"github.com/pion/", "overlay/icedtls", "pion's types would tie every host program to one version of it"},
	{"github.com/google/gopacket", "bypass", "the classifier is the one place that parses with it"},
	{"github.com/digitalocean/go-openvswitch", "ofctl/ovs", "it forks programs; the native client must not need it"},
	{"github.com/nats-io/nats-server/", "overlay/natssignal/embedded", "a server of 17 MB is the host's choice"},
	{"mellium.im/", "overlay/xmppsignal", "who signals otherwise pays nothing for XMPP"},
	{"github.com/containernetworking/", "examples/cni", "how containers come to a host is the business of who embeds us"},
	{"github.com/nats-io/", "overlay/natssignal", "who signals otherwise pays nothing for NATS"},
}

// goList asks the go command about all packages of the module.
func goList(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no go command here: the import graph cannot be told")
	}
	require.NoError(t, err)
	all := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all[p.ImportPath] = p
	}
	require.NotEmpty(t, all[module].Deps)
	return all
}

// inside is path as the rules write it; false: not of this module.
func inside(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func (r room) holds(path string) bool {
	if own, alone := strings.CutSuffix(r.path, "!"); alone {
		return path == own
	}
	return path == r.path || r.path != "." && strings.HasPrefix(path, r.path+"/")
}

func (r room) allows(path string) bool {
	return r.holds(path) || slices.ContainsFunc(r.may, func(m string) bool {
		below, tree := strings.CutSuffix(m, "/…")
		return path == m || tree && (path == below || strings.HasPrefix(path, below+"/"))
	})
}

func TestRooms(t *testing.T) {
	for _, p := range goList(t) {
		path, _ := inside(p.ImportPath)
		for _, r := range rooms {
			if !r.holds(path) {
				continue
			}
			for _, i := range p.Imports {
				if dep, ours := inside(i); ours && !r.allows(dep) {
					t.Errorf("%s imports %s: %s", path, dep, r.why)
				}
			}
		}
		for _, i := range p.Imports {
			for _, o := range owners {
				if strings.HasPrefix(i, o.prefix) && path != o.owner && !strings.HasPrefix(path, o.owner+"/") {
					t.Errorf("%s imports %s, which only %s may: %s", path, i, o.owner, o.why)
				}
			}
			if i == module && !strings.HasPrefix(path, "examples/") && !strings.HasPrefix(path, "bench/") {
				t.Errorf("%s imports the root, which only examples and measurements may: whoever is below it must not know it", path)
			}
			if dep, ours := inside(i); ours && strings.HasPrefix(path, "examples/") && strings.HasPrefix(dep, "internal/") && !exampleInternal(dep) {
				t.Errorf("%s imports %s: examples show what a host program can do, and it cannot do that", path, dep)
			}
		}
	}
}

// exampleInternal are what the example programs share among themselves: not a way
// into the library.
func exampleInternal(path string) bool {
	return slices.Contains([]string{"internal/lab", "internal/nodeapi", "internal/nodecfg"}, path)
}

// A host program that plugs in nothing pays for nothing.
func TestRootIsLight(t *testing.T) {
	for _, d := range goList(t)[module].Deps {
		for _, heavy := range []string{"github.com/pion/", "github.com/nats-io/", "mellium.im/", "github.com/digitalocean/", "github.com/containernetworking/", module + "/ofctl", module + "/bypass/ofpath", "github.com/vishvananda/", "testing"} {
			if d == heavy || strings.HasSuffix(heavy, "/") && strings.HasPrefix(d, heavy) || strings.HasPrefix(d, heavy+"/") {
				t.Errorf("the root depends on %s: a host pays for what it plugs in, and it did not", d)
			}
		}
	}
}

// The rules must be able to fail.
func TestRoomsRefuse(t *testing.T) {
	by := map[string]room{}
	for _, r := range rooms {
		by[r.path] = r
	}
	require.False(t, by["tap!"].allows("overlay"))
	require.False(t, by["ofctl"].allows("bypass"))
	require.False(t, by["."].allows("overlay/icedtls"))
	require.False(t, by["bypass!"].allows("ofctl"))
	require.True(t, by["ofctl"].allows("ofctl/internal/ofp"))
	require.True(t, by["overlay/icedtls"].allows("internal/seg"))
	require.True(t, by["overlay!"].holds("overlay"))
	require.False(t, by["overlay!"].holds("overlay/icedtls"))
}
