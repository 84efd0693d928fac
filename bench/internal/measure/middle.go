//go:build linux

package measure

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pair joins the sides directly.
func (w *wire) pair(ctx context.Context) error {
	return w.do(ctx, "ip", "link", "add", "wire", "netns", w.ns(0), "type", "veth", "peer", "name", "wire", "netns", w.ns(1))
}

// bridge joins them by a bridge in a namespace between them, which has an address of its own.
func (w *wire) bridge(ctx context.Context) error {
	m := w.prefix + "m"
	if err := w.do(ctx, "ip", "netns", "add", m); err != nil {
		return err
	}
	lines := []string{"sysctl -qw net.ipv6.conf.all.disable_ipv6=1", "ip link set lo up", "ip link add name br0 type bridge",
		"ip addr add " + wireM + "/24 dev br0", "ip link set br0 up"}
	for s := range side(2) {
		lines = append(lines, fmt.Sprintf("ip link add name to-%s type veth peer name wire netns %s", s, w.ns(s)), fmt.Sprintf("ip link set to-%s master br0 up", s))
	}
	return w.between(ctx, lines...)
}

// between runs command lines in the middle.
func (w *wire) between(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		args := append([]string{"netns", "exec", w.prefix + "m"}, strings.Fields(line)...)
		if err := w.do(ctx, "ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// lose has the middle drop so many of a hundred packets that come, from either side. They come
// one by one: the sides cut super-frames, and the middle does not merge.
func (w *wire) lose(ctx context.Context, percent int) error {
	var rules strings.Builder
	for s := range side(2) {
		if err := w.between(ctx, fmt.Sprintf("ethtool -K to-%s gro off", s)); err != nil {
			return err
		}
		fmt.Fprintf(&rules, "chain %[1]s { type filter hook ingress device \"to-%[1]s\" priority 0; numgen random mod 100 < %[2]d drop; }\n", s, percent)
	}
	return w.between(ctx, "nft -f "+w.write("loss", "table netdev loss {\n"+rules.String()+"}\n"))
}

// write leaves a text in the wire's directory; who reads it says if that failed.
func (w *wire) write(name, text string) string {
	path := filepath.Join(w.dir, name)
	_ = os.WriteFile(path, []byte(text), 0o600)
	return path
}

// relaySecret is shared by the TURN server and the nodes.
const relaySecret = "bench"

// startRelay blocks UDP between the sides and starts a TURN server in the middle.
func (w *wire) startRelay(ctx context.Context) error {
	for s := range side(2) {
		path := w.write("block", fmt.Sprintf("table ip block { chain in { type filter hook input priority 0; ip saddr %s meta l4proto udp drop; }; }\n", (1-s).wire()))
		if err := w.all(ctx, s, "nft -f "+path); err != nil {
			return err
		}
	}
	log, err := os.Create(filepath.Join(w.dir, "log.relay"))
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = w.startIn(w.prefix+"m", nil, nil, log, "turnserver", "-n", "-v", "--no-cli", "--no-tls", "--no-dtls", "--no-stun-backward-compatibility", "--realm=bench",
		"--listening-ip="+wireM, "--relay-ip="+wireM, "--use-auth-secret", "--static-auth-secret="+relaySecret,
		"--log-file=stdout", "--simple-log", "--pidfile="+filepath.Join(w.dir, "relay.pid"), "--db="+filepath.Join(w.dir, "relay.db"))
	if err != nil {
		return err
	}
	err = poll(ctx, 10*time.Second, func() bool {
		out, err := output(ctx, "ip", "netns", "exec", w.prefix+"m", "ss", "-Hlun", "sport = :3478")
		return err == nil && strings.TrimSpace(out) != ""
	})
	if err != nil {
		b, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the TURN server does not listen: %w: %s", err, last(string(b)))
	}
	return nil
}

// start starts a program at one side; close ends it.
func (w *wire) start(s side, env []string, in io.Reader, out io.Writer, args ...string) (*proc, error) {
	return w.startIn(w.ns(s), env, in, out, args...)
}
