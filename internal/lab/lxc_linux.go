package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// lxcRef names a running system container.
type lxcRef struct {
	Name string `json:"name"`
	Path string `json:"path"` // LXC's folder of containers
	// Namespace is where LXC runs: its control socket has a name in there.
	Namespace string `json:"namespace"`
}

// lxcTimeout bounds one command of LXC.
const lxcTimeout = 20 * time.Second

// lxcPrograms are those that system containers need beside the lab's.
func lxcPrograms() []string {
	return []string{"lxc-start", "lxc-stop", "lxc-info", "lxc-attach", "nsenter"}
}

// LXCWorks tries whether LXC can start a system container here, by one that ends at once;
// otherwise the error, which matches ErrLXC, has LXC's own words.
func LXCWorks(ctx context.Context) (err error) {
	for _, p := range lxcPrograms() {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: missing program %s (make deps installs it)", ErrLXC, p)
		}
	}
	dir, err := os.MkdirTemp("", "viaslxc")
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Base(dir)
	if err := writeLXC(dir, name, "/usr/bin/true", "lxc.net.0.type = empty\n"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lxcTimeout)
	defer cancel()
	if _, err := command(ctx, "lxc-start", "-F", "-P", dir, "-n", name, "-l", "INFO", "-o", filepath.Join(dir, "log")); err != nil {
		return lxcError(dir, err)
	}
	return nil
}

// lxcError has what LXC logged.
func lxcError(dir string, err error) error {
	text, _ := os.ReadFile(filepath.Join(dir, "log"))
	var said []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " ERROR ") {
			said = append(said, strings.TrimSpace(line))
		}
	}
	return fmt.Errorf("%w: %w: %s", ErrLXC, err, strings.Join(said, "; "))
}

// lxcInit is the first process of a system container: it has a service of its own, and
// ends when LXC asks (lxc.signal.halt).
const lxcInit = `#!/bin/sh
trap 'exit 0' PWR
iperf3 -s -p %d >/tmp/iperf3.log 2>&1 &
sleep infinity &
wait
`

// writeLXC makes a container's folder: a configuration, and a root that has the machine's
// own /usr, read-only, and nothing else of it.
func writeLXC(dir, name, init, network string) error {
	at := filepath.Join(dir, name)
	root := filepath.Join(at, "rootfs")
	for _, d := range []string{"usr", "dev", "proc", "sys", "run", "tmp", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("lab: %w", err)
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return fmt.Errorf("lab: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "init"), fmt.Appendf(nil, lxcInit, lxcPort), 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	config := fmt.Sprintf(`lxc.uts.name = %s
lxc.rootfs.path = dir:%s
lxc.mount.auto = proc:mixed sys:ro
lxc.mount.entry = /usr usr none bind,ro 0 0
lxc.init.cmd = %s
lxc.tty.max = 0
lxc.apparmor.profile = unconfined
%s`, name, root, init, network)
	if err := os.WriteFile(filepath.Join(at, "config"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// lxc runs a program of LXC in the host's network namespace. ip netns exec would not do: it
// mounts another /sys, without cgroups.
func (r lxcRef) lxc(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lxcTimeout)
	defer cancel()
	return command(ctx, "nsenter", append([]string{"--net=/run/netns/" + r.Namespace, program, "-P", r.Path, "-n", r.Name}, args...)...)
}

// stop ends the container, if it runs, and waits for its end.
func (r lxcRef) stop(ctx context.Context) error {
	if !namespaceExists(r.Namespace) {
		return nil
	}
	state, err := r.lxc(ctx, "lxc-info", "-s", "-H")
	if err != nil || strings.TrimSpace(state) == "STOPPED" {
		return err
	}
	_, err = r.lxc(ctx, "lxc-stop", "-k")
	return err
}

func (l *Lab) lxcRef(h *Host, c Container) lxcRef {
	// LXC's cgroups have the container's name, whoever's it is: the namespace's is unique.
	return lxcRef{Name: c.Namespace, Path: filepath.Join(h.Dir, "lxc"), Namespace: h.Namespace}
}

// attachArgs begin a command that runs in a system container, behind "--".
func (l *Lab) attachArgs(h *Host, c Container) []string {
	r := l.lxcRef(h, c)
	return []string{"nsenter", "--net=/run/netns/" + r.Namespace, "lxc-attach", "-P", r.Path, "-n", r.Name}
}

// startLXC starts a system container with a device in the host, which is not plugged in
// yet, and makes its network namespace known by name.
func (l *Lab) startLXC(ctx context.Context, h *Host, c *Container) error {
	r := l.lxcRef(h, *c)
	network := fmt.Sprintf("lxc.net.0.type = veth\nlxc.net.0.veth.pair = %s\nlxc.net.0.name = eth0\nlxc.net.0.hwaddr = %s\nlxc.net.0.mtu = %d\n",
		c.Port, c.MAC, l.cfg.MTU)
	if namespaceExists(c.Namespace) {
		return fmt.Errorf("%w: there is a network namespace %s that is not ours; choose another prefix", ErrLab, c.Namespace)
	}
	if err := writeLXC(r.Path, r.Name, "/init", network); err != nil {
		return err
	}
	if err := l.state.update(func(d *stateData) { d.LXC, d.Namespaces = append(d.LXC, r), append(d.Namespaces, c.Namespace) }); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // not cut off half way; lxc has its own limit
	if _, err := r.lxc(ctx, "lxc-start", "-l", "INFO", "-o", filepath.Join(r.Path, "log")); err != nil {
		return lxcError(r.Path, err)
	}
	pid, err := r.lxc(ctx, "lxc-info", "-p", "-H")
	if err != nil {
		return lxcError(r.Path, err)
	}
	if _, err := command(ctx, "ip", "netns", "attach", c.Namespace, strings.TrimSpace(pid)); err != nil {
		return err
	}
	return l.ips(ctx, h.Namespace, fmt.Sprintf("link set %s mtu %d up", c.Port, l.cfg.MTU))
}
