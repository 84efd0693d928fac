package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
)

// dialogue is a child that is talked to by lines.
type dialogue struct {
	*child
	in    *os.File // its standard input
	out   *os.File // its standard output
	lines *bufio.Scanner
	errs  strings.Builder // its standard error; valid once it exited
}

// talk starts a dialogue; it is killed when ctx ends. Its files are real pipes:
// they end with the child, whoever waits.
func (l *Lab) talk(ctx context.Context, ns string, args ...string) (*dialogue, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lab: %w", err), in.Close())
	}
	defer childOut.Close()
	d := &dialogue{in: in, out: out, lines: bufio.NewScanner(out)}
	if d.child, err = l.spawn(ns, childIn, childOut, &d.errs, args...); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	context.AfterFunc(ctx, func() { _ = d.proc.end(syscall.SIGKILL, 0) })
	return d, nil
}

// hear returns the child's next line. false: it ended, and errs says why.
func (d *dialogue) hear() (string, bool) {
	if !d.lines.Scan() {
		<-d.exited
		return "", false
	}
	return d.lines.Text(), true
}

// complaint is the last line on standard error of a child that ended.
func (d *dialogue) complaint() string {
	text := strings.TrimSpace(d.errs.String())
	return "ping-pong: " + text[strings.LastIndexByte(text, '\n')+1:]
}

func (l *Lab) hangUp(d *dialogue) error {
	return errors.Join(l.stop(d.child), d.in.Close(), d.out.Close())
}

// rtt runs the ping-pong. It counts when its frames took the mode's way: twice
// pingCount segments, and acknowledgements, through the TAP or not.
func (l *Lab) rtt(ctx context.Context, m Mode) (r RTT, fail string, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, "", fmt.Errorf("lab: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	d, err := l.talk(ctx, l.hosts[0].Containers[0].Namespace,
		self, childMark, "ping", fmt.Sprintf("%s:%d", l.pair(Kind{}, m).server, m.pingPort()))
	if err != nil {
		return r, "", err
	}
	defer func() { err = errors.Join(err, l.hangUp(d)) }()
	ready, ok := d.hear()
	if !ok {
		return r, d.complaint(), context.Cause(ctx)
	}
	if m == Bypass {
		if why := l.waitBypassed(ctx, strings.TrimPrefix(ready, "ready ")); why != "" {
			return r, "ping-pong: not bypassed: " + why, nil
		}
	}
	before, err := l.tapCounters(ctx, 0)
	if err != nil {
		return r, "", err
	}
	_, _ = io.WriteString(d.in, "go\n") // a child that ended says so below
	result, ok := d.hear()
	if !ok {
		return r, d.complaint(), context.Cause(ctx)
	}
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		return r, "", fmt.Errorf("lab: ping-pong: %w", err)
	}
	after, err := l.tapCounters(ctx, 0)
	share := float64(after.packets-before.packets) / (2 * pingCount)
	if m == Overlay && share < most || m != Overlay && share >= least {
		fail = fmt.Sprintf("ping-pong: the TAP moved %.3f of its segments", share)
	}
	return r, fail, err
}

// waitBypassed waits until both nodes say that the flow from local is bypassed.
func (l *Lab) waitBypassed(ctx context.Context, local string) (why string) {
	limit, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = poll(limit, 20*time.Millisecond, func() (bool, error) {
		for i := 1; i <= 2; i++ {
			s, err := l.Node(i).Status(ctx)
			if err != nil {
				why = err.Error()
				return false, nil
			}
			if why = whyNotBypassed(s, local); why != "" {
				return false, nil
			}
		}
		return true, nil
	})
	return why
}

func whyNotBypassed(s *nodeapi.Status, local string) string {
	for _, f := range s.Flows {
		if strings.Contains(f.Flow+" ", " "+local+" ") {
			if f.State == nodeapi.FlowBypassed {
				return ""
			}
			return fmt.Sprintf("%s: %s", f.State, f.Reason)
		}
	}
	return "the node does not know the flow"
}
