package nat

import (
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
)

// remoteEnv makes the test binary what runs in a namespace, and answers calls at its standard
// input and output. (A goroutine cannot stay in a namespace: those it starts do not.)
const remoteEnv = "VIAS_TEST_NAT"

var pid = os.Getpid() % 100000

func TestMain(m *testing.M) {
	if os.Getenv(remoteEnv) == "" {
		leaktest.Main(m)
	}
	s := rpc.NewServer()
	err := s.RegisterName("servers", new(serving))
	if err == nil {
		err = s.RegisterName("node", &node{sessions: map[int]*session{}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.ServeConn(stdio{os.Stdin, os.Stdout})
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

// remote is that process, as the test sees it.
type remote struct{ *rpc.Client }

// spawn starts one in a namespace; it ends with the test.
func (w *world) spawn(ns string) *remote {
	w.t.Helper()
	c := exec.Command("ip", "netns", "exec", w.tag+ns, os.Args[0])
	c.Env, c.Stderr = append(os.Environ(), remoteEnv+"=1"), os.Stderr
	in, err := c.StdinPipe()
	require.NoError(w.t, err)
	out, err := c.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, c.Start())
	r := &remote{rpc.NewClient(stdio{out, in})}
	w.t.Cleanup(func() {
		_ = c.Process.Kill() // calls may be under way
		_ = r.Close()
		_ = c.Wait()
	})
	return r
}

// start runs a place's node.
func (w *world) start(places ...*place) {
	w.t.Helper()
	for _, p := range places {
		p.remote = w.spawn(p.ns)
	}
}
