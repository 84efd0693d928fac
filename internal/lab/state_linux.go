package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// state is the lab's record of what exists because of it. It is on disk before the
// thing itself exists, so that a crash at any moment leaves nothing unnamed, but a
// process in the instant between its start and its record.
type state struct {
	mu   sync.Mutex
	path string
	data stateData
}

type stateData struct {
	Owner      process   `json:"owner"`
	Namespaces []string  `json:"namespaces"`
	OVS        []string  `json:"ovs"` // run directories; the pids are in there
	Processes  []process `json:"processes"`
	LXC        []lxcRef  `json:"lxc,omitempty"`
	Dir        string    `json:"dir"`
}

// process is a pid that cannot be mistaken for a later process with that number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot (proc(5))
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

func readState(dir string) (*state, error) {
	s := &state{path: statePath(dir)}
	b, err := os.ReadFile(s.path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &s.data); err != nil {
		return nil, fmt.Errorf("lab: %s: %w", s.path, err)
	}
	if s.data.Dir != dir {
		return nil, fmt.Errorf("lab: %s is the state of %s", s.path, s.data.Dir)
	}
	return s, nil
}

// update changes the record and puts it on disk.
func (s *state) update(f func(*stateData)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.data)
	b, err := json.MarshalIndent(&s.data, "", "  ")
	if err != nil {
		return fmt.Errorf("lab: state: %w", err)
	}
	if err := os.WriteFile(s.path+".new", b, 0o600); err != nil {
		return fmt.Errorf("lab: state: %w", err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		return fmt.Errorf("lab: state: %w", err)
	}
	return nil
}

// identify returns the process that has pid now.
func identify(pid int) (process, error) {
	start, _, err := procStat(pid)
	return process{PID: pid, Start: start}, err
}

// alive tells whether p still runs; a zombie does not.
func (p process) alive() bool {
	start, status, err := procStat(p.PID)
	return err == nil && start == p.Start && status != "Z" && status != "X"
}

// procStat reads start time and state from /proc/PID/stat. The program's name,
// which may hold anything, ends at the last parenthesis.
func procStat(pid int) (start uint64, status string, err error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, "", err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const startField = 19 // number 22 of the line; the state is number 3
	if len(fields) <= startField {
		return 0, "", fmt.Errorf("/proc/%d/stat is odd", pid)
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	return start, fields[0], err
}

// end signals p and waits until it is gone; after grace it is killed.
func (p process) end(sig syscall.Signal, grace time.Duration) error {
	kill := time.After(grace)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("lab: end pid %d: %w", p.PID, err)
	}
	for p.alive() {
		select {
		case <-tick.C:
		case <-kill:
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("lab: kill pid %d: %w", p.PID, err)
			}
		}
	}
	return nil
}

const (
	nodeGrace  = 10 * time.Second // a node takes its bypasses down in order
	ownerGrace = 30 * time.Second
)

// Down removes a lab that an earlier process left, by its state file, and nothing
// else. A process that still runs the lab is asked to end first. No state file:
// there is nothing to do, and Down says so with fs.ErrNotExist.
func Down(ctx context.Context, cfg Config) error {
	cfg, err := cfg.normal()
	if err != nil {
		return err
	}
	s, err := readState(cfg.dir())
	if err != nil {
		return err
	}
	if o := s.data.Owner; o.PID != os.Getpid() && o.alive() {
		cfg.Logger.Info("a process runs this lab; ending it", "pid", o.PID)
		if err := o.end(syscall.SIGTERM, ownerGrace); err != nil {
			return err
		}
		if s, err = readState(cfg.dir()); errors.Is(err, fs.ErrNotExist) {
			return nil // it cleaned up
		} else if err != nil {
			return err
		}
	}
	return s.tearDown(ctx)
}

// tearDown undoes all that the state names, as far as it can; what fails stays
// named. Processes first: nodes withdraw their rules while the switches run.
func (s *state) tearDown(ctx context.Context) error {
	s.mu.Lock()
	d := s.data
	d.Processes, d.OVS, d.Namespaces = slices.Clone(d.Processes), slices.Clone(d.OVS), slices.Clone(d.Namespaces)
	d.LXC = slices.Clone(d.LXC)
	s.mu.Unlock()
	var errs []error
	done := make(chan error)
	for _, p := range d.Processes { // at once: each may take its time
		go func() { done <- p.end(syscall.SIGTERM, nodeGrace) }()
	}
	for range d.Processes {
		errs = append(errs, <-done)
	}
	for _, c := range d.LXC {
		errs = append(errs, c.stop(ctx))
	}
	for _, dir := range slices.Backward(d.OVS) {
		errs = append(errs, StopOVSD(dir))
	}
	for _, ns := range slices.Backward(d.Namespaces) {
		if !namespaceExists(ns) {
			continue
		}
		_, err := command(ctx, "ip", "netns", "del", ns)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(d.Dir); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// namespaceExists tells whether `ip netns` knows name.
func namespaceExists(name string) bool {
	_, err := os.Lstat(filepath.Join("/run/netns", name))
	return err == nil
}
