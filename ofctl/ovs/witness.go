package ovs

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	goovs "github.com/digitalocean/go-openvswitch/ovs"
)

// Witness reads a bridge's tables by ovs-ofctl, which shares no code with the
// native client: what both say is so.
type Witness struct {
	c      *Client
	bridge string
}

// Witness makes a witness of a bridge; nothing is run.
func (c *Client) Witness(bridge string) *Witness { return &Witness{c: c, bridge: bridge} }

// FlowLine is one line of ovs-ofctl dump-flows.
type FlowLine struct {
	// Text is the line without counters and ages, such as
	// "table=20, priority=100,tcp,tp_dst=80 actions=drop".
	Text           string
	Cookie         uint64
	Packets, Bytes uint64
	// Flow is the line as go-openvswitch reads it; nil when it cannot, as with
	// hard_timeout.
	Flow *goovs.Flow
}

// Flows is all flows of the bridge, in no order.
func (w *Witness) Flows(ctx context.Context) ([]FlowLine, error) {
	out, err := w.ofctl(ctx, "dump-flows")
	if err != nil {
		return nil, fmt.Errorf("ovs: witness: %w", err)
	}
	var flows []FlowLine
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); !strings.Contains(line, "actions=") {
			continue // the reply's header
		}
		f, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("ovs: witness: %q: %w", line, err)
		}
		flows = append(flows, f)
	}
	return flows, nil
}

// Groups is all groups of the bridge, a line each, such as
// "group_id=1,type=indirect,bucket=actions=output:1".
func (w *Witness) Groups(ctx context.Context) ([]string, error) {
	out, err := w.ofctl(ctx, "dump-groups")
	if err != nil {
		return nil, fmt.Errorf("ovs: witness: %w", err)
	}
	var groups []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "group_id=") {
			groups = append(groups, line)
		}
	}
	return groups, nil
}

// ofctl runs ovs-ofctl without the names of ports, which a program cannot foresee.
func (w *Witness) ofctl(ctx context.Context, command string) (string, error) {
	if !nameRE.MatchString(w.bridge) {
		return "", fmt.Errorf("%q is no name of a bridge", w.bridge)
	}
	out, err := w.c.cfg.Exec(ctx, "ovs-ofctl", "--no-names", "-OOpenFlow13", command, w.bridge)
	return string(out), err
}

// parseLine splits a line of dump-flows into what was asked for and what was
// counted.
func parseLine(line string) (f FlowLine, err error) {
	head, actions, _ := strings.Cut(line, "actions=")
	var keep []string
	for _, word := range strings.Split(strings.TrimSpace(head), ", ") {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "duration", "idle_age", "hard_age":
			continue
		case "n_packets":
			f.Packets, err = strconv.ParseUint(value, 10, 64)
		case "n_bytes":
			f.Bytes, err = strconv.ParseUint(value, 10, 64)
		case "cookie":
			f.Cookie, err = strconv.ParseUint(value, 0, 64)
			if f.Cookie != 0 {
				keep = append(keep, word)
			}
		default:
			keep = append(keep, word)
		}
		if err != nil {
			return FlowLine{}, err
		}
	}
	f.Text = strings.TrimSpace(strings.Join(keep, ", ") + " actions=" + actions)
	f.Flow = libraryFlow(line)
	return f, nil
}

// libraryFlow is line as go-openvswitch reads it, or nil. Its parser panics on some
// texts that it does not expect, a stray ")" for one.
func libraryFlow(line string) (f *goovs.Flow) {
	defer func() {
		if recover() != nil {
			f = nil
		}
	}()
	f = new(goovs.Flow)
	if f.UnmarshalText([]byte(line)) != nil {
		return nil
	}
	return f
}
