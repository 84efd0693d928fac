//go:build linux

package measure

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of /proc's times.
const tick = 100.0 // a second

// usage is processor time in seconds.
type usage struct {
	at        time.Time
	busy      float64 // of the machine
	interrupt float64 // of that: interrupts, mostly packets
	procs     float64 // of what runs in the wire
	self      float64 // of this process: a long way's frames go through it

	// Of a difference:
	took    time.Duration
	ours    float64 // procs, a test's own, and interrupts
	foreign float64 // neither ours nor this process's
}

// usage is what was used until now.
func (w *wire) usage() usage {
	u := usage{at: time.Now(), self: used(os.Getpid())}
	text, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(first) // cpu user nice system idle iowait irq softirq steal
	for i := 1; i < len(f) && i <= 7; i++ {
		v, _ := strconv.ParseFloat(f[i], 64)
		switch i {
		case 4, 5:
		case 6, 7:
			u.interrupt += v / tick
			fallthrough
		default:
			u.busy += v / tick
		}
	}
	for _, p := range w.procs {
		u.procs += p.used()
	}
	for _, pid := range slices.Concat(w.nodes, w.switches) {
		u.procs += used(pid)
	}
	return u
}

// used is its processor time, also when it has ended.
func (p *proc) used() float64 {
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)); err == nil {
		select {
		case <-p.exited:
		default:
			return used(p.cmd.Process.Pid)
		}
	}
	<-p.exited // or about to be noticed
	return (p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()).Seconds()
}

// used is the processor time of a process and its children that ended, in seconds.
func used(pid int) (sum float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest) // state is field 3
	for i := 11; i < 15 && i < len(f); i++ {
		v, _ := strconv.ParseFloat(f[i], 64)
		sum += v / tick
	}
	return sum
}

// since is the difference; self is the time of a test's program that has ended.
func (u usage) since(before usage, self float64) usage {
	d := usage{took: u.at.Sub(before.at)}
	interrupt := u.interrupt - before.interrupt
	d.ours = u.procs - before.procs + self + interrupt
	d.foreign = max(0, u.busy-before.busy-d.ours-(u.self-before.self))
	return d
}

// counted runs a program to its end and tells its processor time, in seconds.
func (w *wire) counted(ctx context.Context, s side, args ...string) (string, float64, error) {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", w.ns(s)}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return "", 0, fmt.Errorf("%s: %w: %s%s", args[0], err, errs.String(), last(out.String()))
	}
	p := cmd.ProcessState
	return out.String(), (p.UserTime() + p.SystemTime()).Seconds(), nil
}

func last(s string) string { return s[max(0, len(s)-200):] }

// end ends a program and waits for it.
func (w *wire) end(p *proc) {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // it may have ended
	<-p.exited
	for i := range w.procs {
		if w.procs[i] == p {
			w.procs = append(w.procs[:i:i], w.procs[i+1:]...)
			return
		}
	}
}

// peak is the largest peak of the tunnel's programs' resident memory, in MB.
func (w *wire) peak() (most float64) {
	pids := slices.Clone(w.nodes)
	for _, p := range w.procs {
		if p.tunnel {
			pids = append(pids, p.cmd.Process.Pid)
		}
	}
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, rest, _ := strings.Cut(string(b), "VmHWM:")
		if f := strings.Fields(rest); len(f) > 0 {
			kb, _ := strconv.ParseFloat(f[0], 64)
			most = max(most, kb*1024/1e6)
		}
	}
	return most
}

// machine says what it all runs on.
func machine() string {
	model := runtime.GOARCH
	text, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, ok := strings.Cut(string(text), "model name\t: "); ok {
		model, _, _ = strings.Cut(rest, "\n")
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d processors (%s), Linux %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)))
}

// versions of everything, as each says it.
func versions(ctx context.Context, bin string, list []Peer) map[string]string {
	v := map[string]string{"go": runtime.Version()}
	ask := func(name string, args ...string) {
		if from := built[args[0]]; from != "" {
			args[0] = bin + "/" + args[0]
		}
		out, _ := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput() // openvpn --version fails
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		v[name] = line
	}
	if control, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil {
		v["tcp congestion control"] = strings.TrimSpace(string(control))
	}
	ask("vias", "git", "describe", "--always", "--dirty")
	ask("iperf3", "iperf3", "--version")
	for _, p := range list {
		if len(p.says) > 0 {
			ask(p.name, p.says...)
		}
	}
	return v
}
