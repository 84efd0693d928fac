//go:build linux

package measure

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/viasnet/vias/internal/lab"
	"github.com/viasnet/vias/internal/nodecfg"
)

// labPrefix names the lab's namespaces. What a run that was killed has left of it, the next
// removes.
const labPrefix = "vias-bench-"

// receiveBuffer is that of the switches' ports, in bytes: what an administrator gives them by
// net.core.rmem_default.
const receiveBuffer = 4 << 20

// openLab builds two hosts with Open vSwitch in user space and a container each, where tests run.
func (w *wire) openLab(ctx context.Context, cfg lab.Config) (*lab.Lab, error) {
	cfg.Prefix = labPrefix
	l, err := lab.Up(ctx, cfg)
	if err != nil {
		return nil, err
	}
	w.down = func() error { return l.Down(context.Background()) }
	if err := l.ReceiveBuffers(ctx, receiveBuffer); err != nil {
		return nil, err
	}
	for i, h := range l.Hosts() {
		w.guests[i], w.addrs[i] = h.Containers[0].Namespace, h.Containers[0].Addr.String()
		text, err := os.ReadFile(filepath.Join(h.OVSDir, "ovs-vswitchd.pid"))
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("pid of ovs-vswitchd: %w", err)
		}
		w.switches = append(w.switches, pid)
	}
	return l, nil
}

// upLabNative has the switches forward as if the containers stood on one wire.
func upLabNative(ctx context.Context, w *wire, _ string) error {
	l, err := w.openLab(ctx, lab.Config{})
	if err != nil {
		return err
	}
	return l.NativeOn(ctx)
}

// labWith starts nodes, which carry everything as action says.
func labWith(cfg lab.Config, action string) func(context.Context, *wire, string) error {
	return func(ctx context.Context, w *wire, bin string) error {
		l, err := w.openLab(ctx, cfg)
		if err != nil {
			return err
		}
		if err := l.StartNodes(ctx, filepath.Join(bin, "node")); err != nil {
			return err
		}
		for i := range l.Hosts() {
			w.nodes = append(w.nodes, l.NodePID(i+1))
			if err := l.Node(i+1).SetPolicy(ctx, nodecfg.Policy{Default: action}); err != nil {
				return err
			}
		}
		w.crossed = func() (uint64, error) {
			s, err := l.Node(1).Status(ctx)
			if err != nil {
				return 0, err
			}
			if len(s.Peers) != 1 || s.Peers[0].Link == nil {
				return 0, fmt.Errorf("host 1 has no link")
			}
			return s.Peers[0].Link.OutBytes, nil
		}
		return nil
	}
}
