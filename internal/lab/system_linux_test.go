package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestIntegrationX(t *testing.T) {
	s := time.Now()
	root := testRoot(t)
	cfg := testConfig(root)
	program := filepath.Join(t.TempDir(), "node")
	out, err := exec.Command("go", "build", "-o", program, "github.com/viasnet/vias/examples/node").CombinedOutput()
	require.NoError(t, err, string(out))
	t.Log("build", time.Since(s))
	l, err := Up(t.Context(), cfg)
	require.NoError(t, err)
	t.Log("up", time.Since(s))
	t.Cleanup(func() { require.NoError(t, l.Down(context.Background())); t.Log("down", time.Since(s)) })
	require.NoError(t, l.StartNodes(t.Context(), program))
	t.Log("nodes", time.Since(s))
	_ = os.Args
}
