package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/lab"
)

// killed: the plugin is killed between two steps, and DEL finds what it left.
func (w world) killed(h *lab.Host) {
	was := w.look(h)
	for _, at := range []struct{ name, program, script string }{
		{"with addresses", "host-local", `"%[1]s" "$@"; kill -9 $PPID`},
		{"with a veth pair", "ovs-vsctl", `case "$*" in *add-port*) kill -9 $PPID;; *) exec "%[1]s" "$@";; esac`},
		{"with a port", "ovs-vsctl", `"%[1]s" "$@" || exit 1; case "$*" in *add-port*) kill -9 $PPID;; esac`},
	} {
		for _, verb := range []string{"DEL", "GC"} {
			w.killedAt(h, at.name, at.program, at.script, verb, was)
		}
	}
	w.killedAttached(h, was)
}

// killedAt kills the plugin by a program of its that goes before the real one. GC cannot know
// of addresses that became nothing, which only an IPAM plugin with a GC of its own finds.
func (w world) killedAt(h *lab.Host, name, program, script, verb string, was traces) {
	t := w.t
	c := call{verb: "ADD", container: "killed", ifname: "eth0", netns: path(w.container("killed")), path: t.TempDir()}
	defer w.must("ip", "netns", "del", filepath.Base(c.netns))
	real := filepath.Join(w.bin, program)
	if program != "host-local" {
		real = strings.TrimSpace(w.must("sh", "-c", "command -v "+program))
	}
	text := "#!/bin/sh\n" + fmt.Sprintf(script, real) + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(c.path, program), []byte(text), 0o700))
	require.ErrorContains(t, w.command(h, c).Run(), "killed", name)
	require.NotEqual(t, was, w.look(h), name)
	c.path, c.verb = "", verb
	if verb == "GC" {
		if name != "with a port" {
			c.verb = "DEL"
			require.NoError(t, w.do(h, call{verb: "GC", extra: w.allOf(h)}))
			now := w.look(h)
			require.Equal(t, [][]string{was.links, was.ports}, [][]string{now.links, now.ports}, name)
		} else {
			c = call{verb: "GC", extra: w.allOf(h)}
		}
	}
	require.NoError(t, w.do(h, c), name)
	require.Equal(t, was, w.look(h), "%s, %s", name, verb)
}

// allOf are the attachments that live on a host: the one that cnitool made.
func (w world) allOf(h *lab.Host) map[string]any {
	ports, err := w.OVS(h.Index).Vsctl(w.t.Context(), "--bare", "--columns=external_ids", "find", "interface", "external_ids:vias-cni-network="+w.network)
	require.NoError(w.t, err)
	valid := []any{}
	for word := range strings.FieldsSeq(ports) {
		if id, is := strings.CutPrefix(word, "container-id="); is && id != "killed" {
			valid = append(valid, map[string]any{"containerID": id, "ifname": "eth0"})
		}
	}
	return map[string]any{"cni.dev/valid-attachments": valid}
}

// proxy is a node's socket behind which stands the real one; after runs when the real node has
// answered a request, before the answer goes on.
func (w world) proxy(h *lab.Host, after func(*http.Response) error) (socket string) {
	socket = filepath.Join(h.Dir, "proxy.sock")
	ln, err := net.Listen("unix", socket)
	require.NoError(w.t, err)
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "node"})
	p.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.Status())
	}}
	p.ModifyResponse = after
	p.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {} // the client is dead
	server := &http.Server{Handler: p}
	var ended sync.WaitGroup
	ended.Go(func() { _ = server.Serve(ln) })
	w.t.Cleanup(func() {
		require.NoError(w.t, server.Close())
		ended.Wait()
	})
	return socket
}

// killedAttached: the plugin dies when the node has attached the endpoint. It told nobody.
func (w world) killedAttached(h *lab.Host, was traces) {
	var cmd *exec.Cmd
	socket := w.proxy(h, func(r *http.Response) error {
		if r.Request.Method != http.MethodPut {
			return nil
		}
		return cmd.Process.Kill()
	})
	c := call{verb: "ADD", container: "killed", ifname: "eth0", netns: path(w.container("killed-attached")), socket: socket}
	cmd = w.command(h, c)
	require.NoError(w.t, cmd.Start())
	require.Error(w.t, cmd.Wait())
	now := w.look(h)
	require.Len(w.t, now.endpoints, len(was.endpoints)+1)
	require.Len(w.t, now.ports, len(was.ports)+1)
	c.verb, c.socket = "DEL", ""
	require.NoError(w.t, w.do(h, c))
	require.Equal(w.t, was, w.look(h))
}
