package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Lab is a lab that is up. Its methods are for one goroutine at a time.
type Lab struct {
	cfg   Config
	state *state
	hosts []*Host
	ovs   []*OVSD // of each host
	nodes []*child
	far   []*distance

	relays   []net.Listener // of OpenFlow
	messages messageTally   // that they passed on
}

// programs that a lab starts.
func programs() []string {
	return []string{"ip", "sysctl", "nft", "ethtool", "iperf3", "ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl"}
}

// Ready says why there can be no lab here: no root, or a program is missing. more are
// programs that it must have beside those of every lab.
func Ready(more ...string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: needs root, for network namespaces", ErrLab)
	}
	var missing []string
	for _, p := range append(programs(), more...) {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: missing programs: %s (make deps installs them)", ErrLab, strings.Join(missing, ", "))
	}
	return nil
}

// Up builds a lab: namespaces, the provider's network, switches and containers. No
// node runs yet. What a crashed lab of that name left is removed first; a live one
// is an error. When Up fails nothing is left.
func Up(ctx context.Context, cfg Config) (*Lab, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	if err := Ready(); err != nil {
		return nil, err
	}
	if err := clearCrashed(ctx, cfg); err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg, hosts: cfg.plan(), state: &state{path: statePath(cfg.dir())}}
	if err := os.MkdirAll(cfg.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	owner, err := identify(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	err = l.state.update(func(d *stateData) { d.Owner, d.Dir = owner, cfg.dir() })
	if err == nil {
		err = l.build(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func clearCrashed(ctx context.Context, cfg Config) error {
	s, err := readState(cfg.dir())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case s.data.Owner.alive():
		return fmt.Errorf("%w: one is up already, run by pid %d (-down ends it)", ErrLab, s.data.Owner.PID)
	}
	cfg.Logger.Info("removing what a crashed lab left", "dir", cfg.dir())
	return s.tearDown(ctx)
}

// Down removes the lab. It is idempotent.
func (l *Lab) Down(ctx context.Context) error {
	for _, d := range l.far {
		d.close()
	}
	for _, r := range l.relays {
		_ = r.Close() // its connections end with the nodes
	}
	l.far, l.relays = nil, nil
	if err := l.state.tearDown(ctx); err != nil {
		return err
	}
	for _, n := range l.nodes {
		<-n.exited
	}
	return nil
}

// Hosts lists the hosts.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Dir holds all files of the lab and goes with it.
func (l *Lab) Dir() string { return l.cfg.dir() }

// OVS is the switch of host number i, counted from 1.
func (l *Lab) OVS(i int) *OVSD { return l.ovs[i-1] }

func (l *Lab) build(ctx context.Context) error {
	if err := l.provider(ctx); err != nil {
		return fmt.Errorf("provider network: %w", err)
	}
	for nr := 1; nr <= l.cfg.Machines; nr++ {
		if err := l.machineUp(ctx, nr); err != nil {
			return fmt.Errorf("machine %d: %w", nr, err)
		}
	}
	for _, h := range l.hosts {
		if err := l.host(ctx, h); err != nil {
			return fmt.Errorf("host %d: %w", h.Index, err)
		}
	}
	return nil
}

// namespace makes one network namespace, refusing one that is somebody else's.
func (l *Lab) namespace(ctx context.Context, name string) error {
	if namespaceExists(name) {
		return fmt.Errorf("%w: there is a network namespace %s that is not ours; choose another prefix", ErrLab, name)
	}
	if err := l.state.update(func(d *stateData) { d.Namespaces = append(d.Namespaces, name) }); err != nil {
		return err
	}
	if _, err := command(ctx, "ip", "netns", "add", name); err != nil {
		return err
	}
	return l.ip(ctx, name, "link set lo up")
}

func (l *Lab) ips(ctx context.Context, ns string, lines ...string) error {
	for _, line := range lines {
		if err := l.ip(ctx, ns, line); err != nil {
			return err
		}
	}
	return nil
}

// host builds one host with its switch and containers.
func (l *Lab) host(ctx context.Context, h *Host) error {
	if err := os.MkdirAll(h.OVSDir, 0o700); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := l.namespace(ctx, h.Namespace); err != nil {
		return err
	}
	if err := l.noIPv6(ctx, h.Namespace); err != nil {
		return err
	}
	at, plug := l.cfg.site(h.Index), fmt.Sprintf("h%d", h.Index) // the provider's end
	into := h.joins(at)
	if h.Index == 2 && l.cfg.Far != (Far{}) {
		if err := l.longWay(ctx, at); err != nil {
			return fmt.Errorf("long way: %w", err)
		}
		into = farBridge
	}
	if err := l.ips(ctx, h.Provider,
		fmt.Sprintf("link add %s type veth peer name %s address %s mtu %d netns %s", plug, uplink, h.MAC, l.cfg.UnderlayMTU, h.Namespace),
		fmt.Sprintf("link set %s master %s mtu %d up", plug, into, l.cfg.UnderlayMTU)); err != nil {
		return err
	}
	for i := range h.Containers {
		if err := l.container(ctx, h, &h.Containers[i]); err != nil {
			return fmt.Errorf("container %s: %w", h.Containers[i].Name, err)
		}
	}
	if err := l.openVSwitch(ctx, h); err != nil {
		return err
	}
	if err := l.dropInput(ctx, h); err != nil {
		return err
	}
	if err := l.staticIPv6(ctx, h.Namespace, bridge); err != nil {
		return err
	}
	err := l.ips(ctx, h.Namespace,
		"link set "+uplink+" up",
		fmt.Sprintf("addr add %s/%d dev %s", h.Addr, at.Prefix.Bits(), bridge),
		fmt.Sprintf("addr add %s/64 dev %s nodad", linkLocal(h.Index), bridge),
		fmt.Sprintf("addr add %s/%d dev %s nodad", h.Addr6, at.prefix6().Bits(), bridge),
		"link set "+bridge+" up",
		"route add default via "+at.gateway().String(),
		"route add default via "+at.gateway6().String())
	if err != nil || !l.cfg.Beside {
		return err
	}
	return l.beside(ctx, h)
}

// dropInput: with the datapath in user space the kernel gets the uplink's frames beside
// the switch. Bridge and uplink have one MAC, so it would answer them: what the host is
// to have comes by the bridge.
func (l *Lab) dropInput(ctx context.Context, h *Host) error {
	if !l.cfg.Datapath.isUser() {
		return nil // it would drop them for the switch too
	}
	_, err := l.in(ctx, h.Namespace, "nft",
		"table netdev uplink { chain in { type filter hook ingress device "+uplink+" priority -500; policy drop; }; }")
	return err
}

// container is a namespace with one veth pair to the host.
func (l *Lab) container(ctx context.Context, h *Host, c *Container) error {
	if c.LXC {
		if err := l.startLXC(ctx, h, c); err != nil {
			return err
		}
		return l.address(ctx, c)
	}
	if err := l.namespace(ctx, c.Namespace); err != nil {
		return err
	}
	if err := l.ips(ctx, h.Namespace,
		fmt.Sprintf("link add %s mtu %d type veth peer name eth0 address %s mtu %d netns %s", c.Port, l.cfg.MTU, c.MAC, l.cfg.MTU, c.Namespace),
		fmt.Sprintf("link set %s up", c.Port)); err != nil {
		return err
	}
	return l.address(ctx, c)
}

// address gives a container's device what it has.
func (l *Lab) address(ctx context.Context, c *Container) error {
	if err := l.finishFrames(ctx, c.Namespace, "eth0"); err != nil {
		return err
	}
	return l.ips(ctx, c.Namespace,
		fmt.Sprintf("addr add %s/%d dev eth0", c.Addr, overlayBits),
		fmt.Sprintf("addr add %s/%d dev eth0 nodad", c.Addr6, guests6().Bits()),
		"link set eth0 up")
}

// finishFrames has a device send whole frames only where the datapath needs that;
// otherwise offloads stay as they come.
func (l *Lab) finishFrames(ctx context.Context, ns, dev string) error {
	if !l.cfg.Datapath.finishes() {
		return nil
	}
	_, err := l.in(ctx, ns, "ethtool", "-K", dev, "tx", "off") // and with it all that needs checksums
	return err
}

// openVSwitch starts the host's switch and plugs everything in. The tags are in the
// database, so they outlive a restart of ovs-vswitchd, when no flow of ours is there.
func (l *Lab) openVSwitch(ctx context.Context, h *Host) error {
	if err := l.state.update(func(d *stateData) { d.OVS = append(d.OVS, h.OVSDir) }); err != nil {
		return err
	}
	// Not cut off by Ctrl-C: a daemon that has not written its pid yet would be lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	o, err := StartOVSD(ctx, OVSDConfig{Dir: h.OVSDir, Netns: h.Namespace, TSO: l.cfg.Datapath == DatapathTSO,
		Options: l.cfg.Datapath.options(h.Index)})
	if err != nil {
		return err
	}
	l.ovs = append(l.ovs, o)
	// mtu_request: the bridge's own port would follow the narrowest workload.
	args := strings.Fields(fmt.Sprintf("add-br %[1]s -- set bridge %[1]s datapath_type=%[6]s fail-mode=standalone other-config:hwaddr=\"%[2]s\""+
		" -- set interface %[1]s mtu_request=%[3]d -- set port %[1]s trunks=0"+
		" -- add-port %[1]s %[4]s trunks=0 -- set interface %[4]s ofport_request=%[5]d %[7]s",
		bridge, h.MAC, l.cfg.UnderlayMTU, uplink, ofportUplink, l.cfg.Datapath.ovsType(), l.cfg.Datapath.port()))
	if l.cfg.Layout == LayoutPatched {
		args = append(args, l.patched()...)
	}
	for _, c := range h.Containers {
		args = append(append(args, l.access(c.Port, c.Ofport)...), strings.Fields(l.cfg.Datapath.port())...)
		if l.cfg.Found == ByIDs {
			args = append(args, strings.Fields(fmt.Sprintf(`external_ids:iface-id=%s external_ids:attached_mac="%s" external_ids:ip_addresses="%s/24,%s/64"`,
				c.Name, c.MAC, c.Addr, c.Addr6))...)
		}
	}
	if _, err := o.Vsctl(ctx, args...); err != nil {
		return err
	}
	// The TAP is the host's and outlives nodes: the user-space datapath does not notice
	// that a device was made anew, and would read the dead one for ever.
	if err := l.ip(ctx, h.Namespace, "tuntap add dev "+tapName+" mode tap"); err != nil {
		return err
	}
	args = l.access(tapName, ofportTAP)
	if _, err = o.Vsctl(ctx, append([]string{"--no-wait"}, args[1:]...)...); err != nil || l.cfg.Layout != LayoutForeign {
		return err
	}
	return l.foreignPipeline(ctx, h)
}

// access adds a port of the workloads' VLAN.
func (l *Lab) access(port string, ofport uint32) []string {
	return strings.Fields(fmt.Sprintf("-- add-port %s %s tag=%d -- set interface %s ofport_request=%d",
		l.workloads(), port, workloadTag, port, ofport))
}

// logTail is the end of a file, for an error.
func logTail(path string) string {
	const most = 2500
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return filepath.Base(path) + ": " + strings.TrimSpace(string(b))
}
