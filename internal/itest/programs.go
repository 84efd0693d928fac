package itest

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"
)

// Programs are commands of the module, each built once for all tests of a process. The
// zero value is ready; TestMain calls Remove when all tests are over. It is for any number
// of goroutines.
type Programs struct {
	mu  sync.Mutex // guards what follows, and is held while one is built
	dir string     // "" = nothing was built
}

// Path builds a command, unless this was done or VIAS_PROGRAMS names a directory that has
// it built (make test-kernel does), and returns its path.
func (p *Programs) Path(tb testing.TB, importPath string) string {
	tb.Helper()
	name := path.Base(importPath)
	if dir := os.Getenv("VIAS_PROGRAMS"); dir != "" {
		return filepath.Join(dir, name)
	}
	Require(tb, "go")
	program, err := p.build(name, importPath)
	if err != nil {
		tb.Fatal(err)
	}
	return program
}

// build is not cut off when the test that asks first ends: others ask for the same.
func (p *Programs) build(name, importPath string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		dir, err := os.MkdirTemp("", "vias-programs")
		if err != nil {
			return "", fmt.Errorf("programs: %w", err)
		}
		p.dir = dir
	}
	program := filepath.Join(p.dir, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if out, err := exec.Command("go", "build", "-o", program, importPath).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w: %s", importPath, err, out)
	}
	return program, nil
}

// Remove deletes what was built.
func (p *Programs) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		return nil
	}
	dir := p.dir
	p.dir = ""
	return os.RemoveAll(dir)
}
