//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/ofctl/ovs"
	"github.com/viasnet/vias/overlay"
)

var errFake = errors.New("out of order")

// place is a host in memory: a node behind a real unix socket, a switch's database, links. What
// is named in fails does not work.
type place struct {
	t      *testing.T
	socket string
	bin    string // CNI_PATH

	mu        sync.Mutex
	status    nodeapi.Status
	endpoints map[string]nodecfg.Endpoint
	ports     map[string]map[string]string // external_ids of interfaces, by name
	pairs     map[string]pair
	fails     map[string]bool
	refusal   int // HTTP's code for PUT, if fails has it; 0 = no answer
}

// newPlace has all in order, and an IPAM plugin "ipam" that gives 10.1.0.5 and writes what it is
// asked for to the file "asked".
func newPlace(t *testing.T) *place {
	p := &place{t: t, bin: t.TempDir(), endpoints: map[string]nodecfg.Endpoint{}, ports: map[string]map[string]string{},
		pairs: map[string]pair{}, fails: map[string]bool{},
		status: nodeapi.Status{ID: overlay.PeerID{1}, Ready: true, MTU: 1400, Bridge: "br0"}}
	dir, err := os.MkdirTemp("", "cni") // t.TempDir is too long for sockets
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	p.socket = filepath.Join(dir, "s")
	ln, err := net.Listen("unix", p.socket)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+nodeapi.StatusPath, p.getStatus)
	mux.HandleFunc("PUT "+nodeapi.EndpointsPath+"{name}", p.put)
	mux.HandleFunc("DELETE "+nodeapi.EndpointsPath+"{name}", p.remove)
	server := &httptest.Server{Listener: ln, Config: &http.Server{Handler: mux}}
	server.Start()
	t.Cleanup(server.Close)
	p.ipam(`case $CNI_COMMAND in ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}';; esac`)
	return p
}

// ipam makes the IPAM plugin do that.
func (p *place) ipam(script string) {
	text := fmt.Sprintf("#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME\" >>%s\n%s\n", filepath.Join(p.bin, "asked"), script)
	require.NoError(p.t, os.WriteFile(filepath.Join(p.bin, "ipam"), []byte(text), 0o700))
}

// asked is what the IPAM plugin was asked for.
func (p *place) asked() (lines []string) {
	text, err := os.ReadFile(filepath.Join(p.bin, "asked"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(p.t, err)
	}
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// plugin is one run there for container c1's eth0, with extra configuration as JSON fields.
func (p *place) plugin(extra string) (*plugin, *bytes.Buffer) {
	p.t.Helper()
	if extra != "" {
		extra = ", " + extra
	}
	args := &skel.CmdArgs{ContainerID: "c1", IfName: "eth0", Netns: "/run/netns/c1", Path: p.bin,
		StdinData: []byte(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "blue", "type": "vias", "bridge": "br0", "socket": %q, "ipam": {"type": "ipam"}%s}`, p.socket, extra))}
	made, err := newPlugin(args, p)
	require.NoError(p.t, err)
	made.ovs = ovs.New(ovs.Config{Owner: "vias-cni", Exec: p.vsctl})
	made.ovsdb = made.ovs
	out := &bytes.Buffer{}
	made.out = out
	return made, out
}

// left is what there is of any container.
func (p *place) left() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for name := range p.endpoints {
		all = append(all, "endpoint "+name)
	}
	for name := range p.ports {
		all = append(all, "port "+name)
	}
	for name := range p.pairs {
		all = append(all, "pair "+name)
	}
	return slices.Sorted(slices.Values(all))
}

// change changes the place, or looks at it: its node answers in goroutines of its own.
func (p *place) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

// fail has these not work, and everything else work again.
func (p *place) fail(what ...string) {
	p.change(func() {
		p.fails = map[string]bool{}
		for _, w := range what {
			p.fails[w] = true
		}
	})
}

// endpoint is the node's of that name.
func (p *place) endpoint(name string) (e nodecfg.Endpoint, there bool) {
	p.change(func() { e, there = p.endpoints[name] })
	return e, there
}

// forgotten adds an endpoint that nobody knows of.
func (p *place) forgotten(name string) {
	p.change(func() { p.endpoints[name] = nodecfg.Endpoint{Name: name} })
}

func (p *place) broken(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fails[what]
}

// code is a CNI error's, and the error has something to say.
func code(t *testing.T, err error) uint {
	t.Helper()
	var e *types.Error
	require.ErrorAs(t, err, &e)
	require.Greater(t, len(e.Msg), 10)
	return e.Code
}

// The node.

func (p *place) getStatus(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	for _, e := range p.endpoints {
		s.Endpoints = append(s.Endpoints, nodeapi.Endpoint{Name: e.Name, MAC: e.MAC, IPs: e.IPs, Ofport: 5})
	}
	_ = json.NewEncoder(w).Encode(s)
}

func (p *place) put(w http.ResponseWriter, r *http.Request) {
	var e nodecfg.Endpoint
	if json.NewDecoder(r.Body).Decode(&e) != nil || e.Name != r.PathValue("name") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endpoints[e.Name] = e
	switch {
	case !p.fails["put"]:
		w.WriteHeader(http.StatusNoContent)
	case p.refusal != 0:
		delete(p.endpoints, e.Name)
		w.WriteHeader(p.refusal)
	default:
		panic(http.ErrAbortHandler) // it is attached, and nobody learns it
	}
}

func (p *place) remove(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails["delete"] {
		panic(http.ErrAbortHandler)
	}
	if _, there := p.endpoints[r.PathValue("name")]; !there {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	delete(p.endpoints, r.PathValue("name"))
	w.WriteHeader(http.StatusNoContent)
}

// The switch's database, as far as package ovs asks.

func (p *place) vsctl(_ context.Context, _ string, args ...string) ([]byte, error) {
	if p.broken("ovsdb") {
		return nil, errFake
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	line := strings.Join(args, " ")
	switch {
	case strings.Contains(line, " find interface"):
		return p.find()
	case strings.Contains(line, "add-port br0"):
		return p.addPort(args)
	case strings.Contains(line, "del-port"):
		if p.fails["del-port"] {
			return nil, errFake
		}
		delete(p.ports, args[len(args)-1])
	case strings.Contains(line, "list-ports"):
		return []byte(strings.Join(slices.Collect(maps.Keys(p.ports)), "\n")), nil
	case strings.Contains(line, "port-to-br"):
		return []byte("br0\n"), nil
	case strings.Contains(line, "get port"):
		return []byte("vias-cni"), nil
	case strings.Contains(line, "get interface br0") && p.fails["vswitchd"]:
		return []byte("[]\n[]"), nil
	case strings.Contains(line, "get interface"):
		return []byte("5\n[]"), nil
	}
	return nil, nil
}

func (p *place) find() ([]byte, error) {
	table := struct {
		Data [][]any `json:"data"`
	}{}
	for name, ids := range p.ports {
		pairs := [][2]string{}
		for k, v := range ids {
			pairs = append(pairs, [2]string{k, v})
		}
		table.Data = append(table.Data, []any{name, []any{"map", pairs}})
	}
	return json.Marshal(table)
}

func (p *place) addPort(args []string) ([]byte, error) {
	ids := map[string]string{}
	set := args[slices.Index(args, "interface")+1:]
	for _, word := range set {
		if rest, is := strings.CutPrefix(word, "external_ids:"); is {
			key, value, _ := strings.Cut(rest, "=")
			ids[key] = strings.Trim(value, `"`)
		}
	}
	p.ports[set[0]] = ids
	if p.fails["add-port"] { // it is in the database, and the switch does not follow
		return nil, errFake
	}
	return nil, nil
}

// The links.

func (p *place) check(netns, ifname string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails["netns"] {
		return errNetns
	}
	for _, l := range p.pairs {
		if l.netns == netns && l.ifname == ifname {
			return errExists
		}
	}
	return nil
}

func (p *place) plug(l pair) error {
	if p.broken("plug") {
		return errFake
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pairs[l.host] = l
	return nil
}

func (p *place) configure(l pair, ips []ipConfig, routes []route) error {
	if p.broken("configure") || len(ips) != 1 || len(routes) != 1 || routes[0].gateway != netip.MustParseAddr("10.1.0.1") {
		return errFake
	}
	return nil
}

func (p *place) unplug(host string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails["unplug"] {
		return errFake
	}
	delete(p.pairs, host)
	return nil
}

func (p *place) look(l pair, ips []ipConfig, routes []route) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if is := p.pairs[l.host]; is.mac != l.mac || is.mtu != l.mtu || len(ips) != 1 || len(routes) != 1 {
		return errFake
	}
	return nil
}

func (p *place) hostEnds(prefix string) (names []string, err error) {
	if p.broken("list") {
		return nil, errFake
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.pairs {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names, nil
}
