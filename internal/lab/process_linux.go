package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command runs a program to its end and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	// Ctrl-C is for us: a program cut off in the middle would leave halves.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("lab: %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// ip runs one line of ip(8) in a namespace.
func (l *Lab) ip(ctx context.Context, ns, line string) error {
	l.cfg.Logger.Debug("ip", "namespace", ns, "line", line)
	_, err := command(ctx, "ip", append([]string{"-n", ns}, strings.Fields(line)...)...)
	return err
}

// in runs a program to its end in a namespace.
func (l *Lab) in(ctx context.Context, ns string, args ...string) (string, error) {
	l.cfg.Logger.Debug("run", "namespace", ns, "args", args)
	return command(ctx, "ip", append([]string{"netns", "exec", ns}, args...)...)
}

// child is a program that runs beside us in a namespace.
type child struct {
	cmd    *exec.Cmd
	proc   process
	exited chan struct{}
	err    error // of Wait; valid once exited is closed
}

// spawn starts a program in a namespace and records it. It ends by stop, or by the
// state file: it outlives a crash of ours.
func (l *Lab) spawn(ns string, stdin io.Reader, stdout, stderr io.Writer, args ...string) (*child, error) {
	l.cfg.Logger.Debug("start", "namespace", ns, "args", args)
	c := &child{cmd: exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...), exited: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", args[0], err)
	}
	var err error
	if c.proc, err = identify(c.cmd.Process.Pid); err == nil {
		err = l.state.update(func(d *stateData) { d.Processes = append(d.Processes, c.proc) })
	}
	if err != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		return nil, fmt.Errorf("lab: start %s: %w", args[0], err)
	}
	go c.wait()
	return c, nil
}

func (c *child) wait() {
	c.err = c.cmd.Wait()
	close(c.exited)
}

// stop ends a child and takes it off the record.
func (l *Lab) stop(c *child) error {
	err := c.proc.end(syscall.SIGTERM, nodeGrace)
	<-c.exited
	return errors.Join(err, l.state.update(func(d *stateData) {
		for i, p := range d.Processes {
			if p == c.proc {
				d.Processes = append(d.Processes[:i:i], d.Processes[i+1:]...)
				break
			}
		}
	}))
}

// poll asks ok every interval until it is satisfied, fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, ok func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// listening tells whether a process listens on a TCP port of its own namespace.
func listening(pid int, port uint16) bool {
	for _, name := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}
