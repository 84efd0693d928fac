package itest

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace runs f in a fresh network namespace, with lo up, on an operating
// system thread of its own that dies with it. What f opens there (sockets, TAPs)
// stays in the namespace and keeps it alive after f returned; programs that f
// starts run in it. Goroutines that f starts do NOT, so f must not call t.Run or
// t.Parallel.
//
// It requires root, as Require does. f may call tb.FailNow and tb.SkipNow, which
// end the calling test too.
func Namespace(tb testing.TB, f func()) {
	tb.Helper()
	Require(tb)
	var err error
	finished := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread must not be used again
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("unshare: %w", err)
			return
		}
		if err = loopbackUp(); err != nil {
			return
		}
		f()
		finished = true
	}()
	<-done
	switch {
	case err != nil:
		tb.Fatalf("network namespace: %v", err)
	case !finished && tb.Skipped():
		tb.SkipNow()
	case !finished:
		tb.FailNow()
	}
}

// loopbackUp sets lo up in the calling thread's namespace.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Exec runs a program in the calling thread's network namespace and returns its
// standard output; the test ends if it fails.
func Exec(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	var out, errs strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String()
}
