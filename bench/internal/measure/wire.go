//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/viasnet/vias/bench"
)

// Addresses of the wire (RFC 2544's range) and of the overlays on it.
const (
	wireA, wireB = "198.18.7.1", "198.18.7.2"
	overA, overB = "198.19.7.1", "198.19.7.2"
	wireM        = "198.18.7.3" // of what stands between, if anything does
)

// side is one end: 0 = a, 1 = b.
type side int

func (s side) String() string { return string("ab"[s]) }
func (s side) wire() string   { return [...]string{wireA, wireB}[s] }
func (s side) over() string   { return [...]string{overA, overB}[s] }

// wire is two namespaces and the veth pair between them, with what runs there. Or, with a
// middle, a third namespace that bridges them. Or a lab, which brings namespaces of its own.
type wire struct {
	prefix string // of everything that it makes
	dir    string
	middle bool
	procs  []*proc

	// Of a lab:
	guests   [2]string              // the namespaces that tests run in; "" = those of the sides
	addrs    [2]string              // their addresses; "" = those of the overlay
	nodes    []int                  // processes of the overlay that the lab started
	switches []int                  // and its switches
	crossed  func() (uint64, error) // bytes that went over the overlay; nil = everything does
	down     func() error           // removes it; nil = there is none
}

// proc is a program that runs beside us, in a process group of its own.
type proc struct {
	cmd    *exec.Cmd
	tunnel bool // it is of the overlay, not a test's
	exited chan struct{}
}

// ns is where tests run, and, outside of labs, tunnels.
func (w *wire) ns(s side) string {
	if w.guests[s] != "" {
		return w.guests[s]
	}
	return w.prefix + s.String()
}

func (w *wire) addr(s side) string {
	if w.addrs[s] != "" {
		return w.addrs[s]
	}
	return s.over()
}

func (w *wire) dev(s side) string { return w.prefix + s.String() } // the overlay's, in its namespace

// begin gives the wire its name and its directory; close it whether that fails or not.
func (w *wire) begin() (err error) {
	w.prefix = fmt.Sprintf("vb%d", os.Getpid())
	w.dir, err = os.MkdirTemp("", "vias-bench")
	return err
}

// open makes the wire.
func (w *wire) open(ctx context.Context, mode string) error {
	for s := range side(2) {
		if err := w.do(ctx, "ip", "netns", "add", w.ns(s)); err != nil {
			return err
		}
	}
	w.middle = w.middle || bench.Loss(mode) > 0
	lay := w.pair
	if w.middle {
		lay = w.bridge
	}
	if err := lay(ctx); err != nil {
		return err
	}
	for s := range side(2) {
		lines := []string{"sysctl -qw net.ipv6.conf.all.disable_ipv6=1", "ip link set lo up",
			"ip addr add " + s.wire() + "/24 dev wire", "ip link set wire up"}
		if mode != bench.ModeDefault {
			lines = append(lines, "ethtool -K wire tso off gso off gro on tx-udp-segmentation off")
		}
		if err := w.all(ctx, s, lines...); err != nil {
			return err
		}
	}
	if loss := bench.Loss(mode); loss > 0 {
		return w.lose(ctx, loss)
	}
	return nil
}

// close ends what runs and removes what open made.
func (w *wire) close() error {
	var errs []error
	for _, p := range w.procs {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // it may be gone
	}
	for _, p := range w.procs {
		select {
		case <-p.exited:
		case <-time.After(2 * time.Second):
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.exited
		}
	}
	w.procs = nil
	if w.down != nil {
		errs = append(errs, w.down())
	}
	for _, ns := range []string{w.prefix + "a", w.prefix + "b", w.prefix + "m"} {
		if _, err := os.Stat("/run/netns/" + ns); err == nil {
			errs = append(errs, w.do(context.Background(), "ip", "netns", "del", ns))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// do runs a program to its end.
func (w *wire) do(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// output is what a program printed. Ctrl-C is for us, not for it.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// in runs a program to its end at one side.
func (w *wire) in(ctx context.Context, s side, args ...string) (string, error) {
	return output(ctx, "ip", append([]string{"netns", "exec", w.ns(s)}, args...)...)
}

// all runs command lines without quoting at one side.
func (w *wire) all(ctx context.Context, s side, lines ...string) error {
	for _, line := range lines {
		if _, err := w.in(ctx, s, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// tunnel starts a program of the overlay at one side. What it prints is in its log.
func (w *wire) tunnel(s side, env []string, args ...string) error {
	log, err := os.Create(filepath.Join(w.dir, "log."+s.String()))
	if err != nil {
		return err
	}
	defer log.Close()
	p, err := w.start(s, env, nil, log, args...)
	if err == nil {
		p.tunnel = true
	}
	return err
}

// startIn starts a program in a namespace; close ends it.
func (w *wire) startIn(ns string, env []string, in io.Reader, out io.Writer, args ...string) (*proc, error) {
	p := &proc{cmd: exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	w.procs = append(w.procs, p)
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// logs are the last lines of what the overlay's programs printed.
func (w *wire) logs() string {
	var last []string
	for s := range side(2) {
		b, _ := os.ReadFile(filepath.Join(w.dir, "log."+s.String()))
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		last = append(last, s.String()+": "+strings.Join(lines[max(0, len(lines)-3):], " / "))
	}
	return strings.Join(last, "; ")
}

// address gives the overlay's devices their addresses, as soon as they are there. mtu 0:
// the program sets it.
func (w *wire) address(ctx context.Context, mtu int) error {
	for s := range side(2) {
		dev := w.dev(s)
		err := poll(ctx, 10*time.Second, func() bool {
			_, err := w.in(ctx, s, "ip", "link", "show", dev)
			return err == nil
		})
		if err != nil {
			return fmt.Errorf("the device at %s does not come: %s", s, w.logs())
		}
		if mtu > 0 {
			if err := w.all(ctx, s, fmt.Sprintf("ip link set %s mtu %d", dev, mtu)); err != nil {
				return err
			}
		}
		if err := w.all(ctx, s, "ip addr replace "+s.over()+"/24 dev "+dev, "ip link set "+dev+" up"); err != nil {
			return err
		}
	}
	return nil
}

// poll asks until ok is, or fails when it took too long.
func poll(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}
