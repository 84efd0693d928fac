// Package itest says whether an integration test can run here. Such tests need
// root, network namespaces and other people's programs; where these are missing
// they skip with the reason, and where VIAS_MUST_RUN=1 is set (make test as root,
// CI) a missing thing is a failure: nothing is skipped silently.
package itest

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// Require ends the test (skip, or failure under VIAS_MUST_RUN=1) unless it runs
// as root on Linux with every named program in PATH.
func Require(tb testing.TB, programs ...string) {
	tb.Helper()
	stop := stop(tb)
	if runtime.GOOS != "linux" {
		stop("integration test: needs Linux, this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		stop("integration test: needs root (network namespaces), effective uid is %d", os.Geteuid())
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			stop("integration test: needs the program %q (make deps installs it)", p)
		}
	}
}

// stop ends a test that cannot run here.
func stop(tb testing.TB) func(format string, args ...any) {
	if os.Getenv("VIAS_MUST_RUN") == "1" {
		return tb.Fatalf
	}
	return tb.Skipf
}
