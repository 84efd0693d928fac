// Package lab builds the places that vias is tried in: Open vSwitch daemons of
// their own, and network namespaces around them.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// OVSDConfig says where and how an Open vSwitch of its own runs.
type OVSDConfig struct {
	// Dir is the run directory: database, sockets, logs, pid files. It must exist,
	// be absolute and short, since unix socket paths end at 107 bytes.
	Dir string
	// Netns is the name of the network namespace that ovs-vswitchd runs in; "" =
	// the caller's.
	Netns string
	// TSO sets userspace-tso-enable: the user-space datapath then keeps guests'
	// super-frames and partial checksums whole.
	TSO bool
	// Options are more of the database's other_config, "key=value".
	Options []string
}

// OVSD is one ovsdb-server and one ovs-vswitchd, apart from any other on the
// machine. Its methods may be called from several goroutines, except Stop and
// RestartVswitchd.
type OVSD struct {
	cfg      OVSDConfig
	dbPID    int
	switchID int // pid of ovs-vswitchd
}

// maxCtlName is the longest name of a socket that the daemons make in Dir.
const maxCtlName = len("/ovsdb-server.4194304.ctl")

// StartOVSD starts both daemons and returns when they serve. They run until Stop,
// also beyond the end of ctx and of the caller: their pids are in Dir.
func StartOVSD(ctx context.Context, cfg OVSDConfig) (*OVSD, error) {
	if !filepath.IsAbs(cfg.Dir) || len(cfg.Dir)+maxCtlName > 107 {
		return nil, fmt.Errorf("lab: start ovs: run directory %q is not absolute or too long for sockets", cfg.Dir)
	}
	o := &OVSD{cfg: cfg}
	if err := o.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("lab: start ovs: %w", err), o.Stop())
	}
	return o, nil
}

func (o *OVSD) start(ctx context.Context) error {
	db := filepath.Join(o.cfg.Dir, "conf.db")
	if _, err := os.Stat(db); errors.Is(err, os.ErrNotExist) {
		if _, err := o.run(ctx, "ovsdb-tool", "create", db); err != nil {
			return err
		}
	}
	_, err := o.run(ctx, "ovsdb-server", append(o.daemonArgs("ovsdb-server"),
		"--remote=p"+o.DB(), db)...)
	if err != nil {
		return err
	}
	if o.dbPID, err = o.readPID("ovsdb-server"); err != nil {
		return err
	}
	if _, err := o.Vsctl(ctx, "--no-wait", "init"); err != nil {
		return err
	}
	set := []string{"--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=" + strconv.FormatBool(o.cfg.TSO)}
	for _, option := range o.cfg.Options {
		set = append(set, "other_config:"+option)
	}
	_, err = o.Vsctl(ctx, set...)
	if err != nil {
		return err
	}
	return o.startVswitchd(ctx)
}

// switchNice is the niceness of ovs-vswitchd, the one that ovs-ctl gives it. A switch in
// user space forwards in a thread of its own: at the same priority as a node that is
// busy, and on the same cores, it waits for its turn longer than its ports' receive
// queues last, and what is bypassed suffers from what is not.
const switchNice = "-10"

func (o *OVSD) startVswitchd(ctx context.Context) error {
	args := append([]string{"nice", "-n", switchNice, "ovs-vswitchd"}, o.daemonArgs("ovs-vswitchd")...)
	if o.cfg.Netns != "" {
		args = append([]string{"ip", "netns", "exec", o.cfg.Netns}, args...)
	}
	_, err := o.run(ctx, args[0], append(args[1:], o.DB())...)
	if err != nil {
		return err
	}
	if o.switchID, err = o.readPID("ovs-vswitchd"); err != nil {
		return err
	}
	// Niceness counts among processes of a session only where the kernel groups them so,
	// if this machine's does: like nice(1), do what is allowed.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", o.switchID), []byte(switchNice), 0o644)
	return nil
}

// daemonArgs detach a daemon when it is ready.
func (o *OVSD) daemonArgs(name string) []string {
	base := filepath.Join(o.cfg.Dir, name)
	return []string{"--detach", "--pidfile=" + base + ".pid", "--log-file=" + base + ".log",
		"-vconsole:off", "-vsyslog:off"}
}

// Env is what other programs need in their environment to find this Open vSwitch.
func (o *OVSD) Env() []string {
	return []string{"OVS_RUNDIR=" + o.cfg.Dir, "OVS_LOGDIR=" + o.cfg.Dir, "OVS_DBDIR=" + o.cfg.Dir}
}

// Dir is the run directory.
func (o *OVSD) Dir() string { return o.cfg.Dir }

// DB is the database's address, for ovs-vsctl --db.
func (o *OVSD) DB() string { return "unix:" + filepath.Join(o.cfg.Dir, "db.sock") }

// Mgmt is the address of a bridge's OpenFlow socket, for ofctl.Dial.
func (o *OVSD) Mgmt(bridge string) string {
	return "unix:" + filepath.Join(o.cfg.Dir, bridge+".mgmt")
}

// Vsctl runs ovs-vsctl and returns what it prints, without the last line's end.
func (o *OVSD) Vsctl(ctx context.Context, args ...string) (string, error) {
	return o.run(ctx, "ovs-vsctl", append([]string{"--timeout=10"}, args...)...)
}

// Ofctl runs ovs-ofctl for OpenFlow 1.3 with ports and tables as numbers.
func (o *OVSD) Ofctl(ctx context.Context, args ...string) (string, error) {
	return o.run(ctx, "ovs-ofctl", append([]string{"--timeout=10", "-OOpenFlow13", "--no-names"}, args...)...)
}

// Appctl runs ovs-appctl on ovs-vswitchd.
func (o *OVSD) Appctl(ctx context.Context, args ...string) (string, error) {
	return o.run(ctx, "ovs-appctl", append([]string{"--timeout=10", "-t", "ovs-vswitchd"}, args...)...)
}

// run runs a program with Env; an error has what it printed to stderr.
func (o *OVSD) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), o.Env()...)
	// A daemon keeps a pipe open that it inherits; a file is no reason to wait.
	errFile, err := os.CreateTemp(o.cfg.Dir, "stderr")
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	defer os.Remove(errFile.Name())
	defer errFile.Close()
	cmd.Stderr = errFile
	out, err := cmd.Output()
	if err != nil {
		text, _ := os.ReadFile(errFile.Name())
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(text)))
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// RestartVswitchd stops ovs-vswitchd, with SIGKILL when crash is set, and starts
// it again: its flows are gone, what the database says is not.
func (o *OVSD) RestartVswitchd(ctx context.Context, crash bool) error {
	sig := os.Signal(syscall.SIGTERM)
	if crash {
		sig = os.Kill
	}
	if err := stopDaemon(o.switchID, o.cfg.Dir, sig); err != nil {
		return fmt.Errorf("lab: restart ovs-vswitchd: %w", err)
	}
	o.switchID = 0
	if err := o.startVswitchd(ctx); err != nil {
		return fmt.Errorf("lab: restart ovs-vswitchd: %w", err)
	}
	return nil
}

// Stop ends both daemons, and only these. What they left is the caller's: Dir, and
// in the network namespace the persistent TAPs of user-space bridges, which go with
// the namespace or with del-br before Stop.
func (o *OVSD) Stop() error {
	err := stopDaemon(o.switchID, o.cfg.Dir, syscall.SIGTERM)
	err = errors.Join(err, stopDaemon(o.dbPID, o.cfg.Dir, syscall.SIGTERM))
	o.switchID, o.dbPID = 0, 0
	if err != nil {
		return fmt.Errorf("lab: stop ovs: %w", err)
	}
	return nil
}

// readPID reads a daemon's pid file.
func (o *OVSD) readPID(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join(o.cfg.Dir, name+".pid"))
	if err != nil {
		return 0, fmt.Errorf("pid of %s: %w", name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid of %s: %q", name, b)
	}
	return pid, nil
}

// StopOVSD ends the daemons whose pid files are in dir, those of a run that crashed.
func StopOVSD(dir string) error {
	o := &OVSD{cfg: OVSDConfig{Dir: dir}}
	// Without a pid file there is nothing to stop.
	o.switchID, _ = o.readPID("ovs-vswitchd")
	o.dbPID, _ = o.readPID("ovsdb-server")
	return o.Stop()
}

// stopTimeout is how long a daemon may take before it is killed.
const stopTimeout = 5 * time.Second

// stopDaemon ends the process pid if it is a daemon of dir, and waits for its end.
func stopDaemon(pid int, dir string, sig os.Signal) error {
	if pid == 0 || !daemonAlive(pid, dir) {
		return nil
	}
	if err := signalPID(pid, sig); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	kill := time.After(stopTimeout)
	for daemonAlive(pid, dir) || ending(pid) {
		select {
		case <-tick.C:
		case <-kill:
			if err := signalPID(pid, os.Kill); err != nil {
				return err
			}
		}
	}
	return nil
}

// signalPID signals a process; that it has ended already is no error.
func signalPID(pid int, sig os.Signal) error {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(sig)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %d: %w", pid, err)
	}
	return nil
}

// ending tells whether a process has lost its memory, and so its arguments, but not yet its
// files: the lock on a pid file goes with these, which is when its last thread has ended. Its first
// may have ended long before.
func ending(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ") // behind the name: state, ..., flags
	fields := strings.Fields(rest)
	const flags, threads, exiting = 6, 17, 0x4 // proc(5); PF_EXITING
	if len(fields) <= threads {
		return false
	}
	if fields[0] == "Z" || fields[0] == "X" {
		n, err := strconv.Atoi(fields[threads])
		return err == nil && n > 1
	}
	bits, err := strconv.ParseUint(fields[flags], 10, 64)
	return err == nil && bits&exiting != 0
}

// daemonAlive tells whether pid is a running process whose arguments name dir: a
// pid may be somebody else's by now. A zombie's arguments are empty.
func daemonAlive(pid int, dir string) bool {
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && strings.Contains(string(args), dir+"/")
}
