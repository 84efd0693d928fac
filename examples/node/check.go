package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/bypass/underlay"
	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// errChecked: a check found something, and printed it.
var errChecked = errors.New("a requirement is not met")

// checkTime bounds one check.
const checkTime = 5 * time.Second

// checkCommand prints every requirement of a configuration with what to do about
// it. It changes nothing for good.
func checkCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	set := flags("check", stderr)
	path := configFlag(set)
	if err := parse(set, args, 0); err != nil {
		return err
	}
	cfg, err := load(*path)
	if err == nil {
		err = findUnderlay(ctx, cfg)
	}
	if err != nil {
		return err
	}
	findings := preflight(ctx, cfg)
	bad := 0
	for _, f := range findings {
		if err := printFinding(stdout, f); err != nil {
			return err
		}
		if !f.OK {
			bad++
		}
	}
	if bad > 0 {
		fmt.Fprintf(stdout, "%d of %d requirements are not met\n", bad, len(findings))
		return errChecked
	}
	_, err = fmt.Fprintf(stdout, "all %d requirements are met\n", len(findings))
	return err
}

func printFinding(out io.Writer, f underlay.Finding) error {
	word, detail := "ok", f.Detail
	switch {
	case !f.OK:
		word = "bad"
	case f.Remedy != "":
		word = "mind"
	}
	if detail != "" {
		detail = ": " + detail
	}
	_, err := fmt.Fprintf(out, "%-4s %s%s\n", word, f.What, detail)
	if err == nil && f.Remedy != "" {
		_, err = fmt.Fprintf(out, "     -> %s\n", f.Remedy)
	}
	return err
}

// preflight makes all checks.
func preflight(ctx context.Context, cfg *nodecfg.Config) []underlay.Finding {
	quick, cancel := context.WithTimeout(ctx, checkTime)
	_, err := nodeapi.Client{Socket: cfg.Status}.Status(quick)
	cancel()
	running := err == nil // it holds what is checked here
	list := []underlay.Finding{
		checkIdentity(cfg),
		checkSocket(cfg, running),
		checkListen(ctx, cfg, running),
		checkRendezvous(ctx, cfg, running),
		checkTAP(ctx, cfg, running),
	}
	list = append(list, checkRelays(ctx, cfg)...)
	if cfg.Membership != "" {
		list = append(list, checkMembership(cfg))
	}
	if cfg.Bridge == "" {
		return list
	}
	list = append(list, checkSwitch(ctx, cfg)...)
	list = append(list, checkMTU(cfg))
	db := database{cfg.OVSDB}
	kind, dbErr := db.get(ctx, "bridge", cfg.Bridge, "datapath_type")
	// Without an answer the stricter case is checked.
	userspace := dbErr != nil || kind == "netdev"
	if cfg.OVSDB != nodecfg.NoOVSDB {
		list = append(list, db.checkTags(ctx, cfg))
	}
	if userspace {
		list = append(list, checkPersistent(cfg))
	}
	if userspace && cfg.OVSDB != nodecfg.NoOVSDB {
		list = append(list, db.checkChecksums(ctx, cfg))
	}
	return append(list, underlay.Preflight(ctx, underlay.CheckConfig{
		Config:            underlay.Config{Device: cfg.UplinkAddrDevice, Uplink: cfg.Uplink},
		Ports:             bypass.PortRange(cfg.Ports),
		Trust:             cfg.Trust.Prefixes,
		UserspaceDatapath: userspace,
	})...)
}

// finding is ok when err is nil.
func finding(what, detail string, err error, remedy string) underlay.Finding {
	if err != nil {
		return underlay.Finding{What: what, Detail: oneLine(err), Remedy: remedy}
	}
	return underlay.Finding{What: what, OK: true, Detail: detail}
}

// checkMembership: is the folder there, ours, and of this network, and does it count now?
func checkMembership(cfg *nodecfg.Config) underlay.Finding {
	const what = "membership"
	remedy := "node id -identity " + cfg.Identity + " -request makes a request; node ca issue a folder of it, to be copied to " + cfg.Membership
	id, err := overlay.LoadIdentity(cfg.Identity)
	if err != nil {
		return finding(what, "", err, remedy)
	}
	m, err := openMember(cfg, id.ID(), nil)
	if err != nil {
		return finding(what, "", err, remedy)
	}
	s := m.Status()
	if s.Err != nil {
		return finding(what, "", s.Err, remedy)
	}
	f := finding(what, "until "+s.Until.Format(time.DateTime), nil, "")
	f.Remedy = strings.Join(s.Warnings(time.Now()), "; ") // ok, but mind it
	return f
}

func checkIdentity(cfg *nodecfg.Config) underlay.Finding {
	const what = "identity"
	id, err := overlay.LoadIdentity(cfg.Identity)
	switch {
	case err == nil:
		return finding(what, id.ID().String(), nil, "")
	case errors.Is(err, fs.ErrNotExist):
		return finding(what, "it will be made", writable(filepath.Dir(cfg.Identity)),
			"make the directory, for this user: install -d -m 700 "+filepath.Dir(cfg.Identity))
	}
	return finding(what, "", err, "chmod 600 "+cfg.Identity+" if nobody has read it, or remove it for a new identity")
}

// writable tells whether files can be made in dir.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".vias-check-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func checkSocket(cfg *nodecfg.Config, running bool) underlay.Finding {
	if running {
		return finding("status socket", "a node answers", nil, "")
	}
	return finding("status socket", cfg.Status, writable(filepath.Dir(cfg.Status)),
		"make the directory: install -d -m 755 "+filepath.Dir(cfg.Status))
}

const held = "the running node has it"

func checkListen(ctx context.Context, cfg *nodecfg.Config, running bool) underlay.Finding {
	what := "overlay address " + cfg.Listen.String() + "/udp"
	if running {
		return finding(what, held, nil, "")
	}
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", cfg.Listen.String())
	if err == nil {
		err = c.Close()
	}
	return finding(what, "free", err, "give this host the address (ip addr), or end who has the port (ss -lunp)")
}

func checkRendezvous(ctx context.Context, cfg *nodecfg.Config, running bool) underlay.Finding {
	if serve := cfg.Signal.Serve; serve.IsValid() && !running {
		err := canListen(ctx, serve.String())
		if c := cfg.Signal.Cluster; c != nil && err == nil {
			err = canListen(ctx, c.Listen.String())
		}
		return finding("rendezvous, served here on "+serve.String(), "free", err,
			"give this host the address (ip addr), or end who has the port (ss -ltnp)")
	}
	where := []string{cfg.Signal.TCP.String()}
	switch {
	case cfg.Signal.Embedded():
		where = []string{cfg.Signal.Serve.String()}
	case cfg.Signal.NATS != nil:
		where = nil
		for _, text := range cfg.Signal.NATS.URLs {
			if u, err := url.Parse(text); err == nil {
				where = append(where, u.Host)
			}
		}
	}
	d := net.Dialer{Timeout: checkTime}
	var all []error
	for _, addr := range where { // one of a cluster is enough
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			all = []error{c.Close()}
			break
		}
		all = append(all, err)
	}
	return finding("rendezvous "+strings.Join(where, ", "), "it answers", errors.Join(all...),
		"start the node that serves it, and let TCP through; nodes wait for it")
}

// checkRelays asks each TURN server for an address, and gives it back.
func checkRelays(ctx context.Context, cfg *nodecfg.Config) (list []underlay.Finding) {
	for _, r := range relays(cfg) {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		at, err := r.Check(ctx)
		cancel()
		list = append(list, finding("relay "+r.URL, "it gives addresses, such as "+at.String(), err,
			"start the TURN server, let this host reach it, and compare the credentials and the clocks"))
	}
	return list
}

func canListen(ctx context.Context, addr string) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return ln.Close()
}

func checkTAP(ctx context.Context, cfg *nodecfg.Config, running bool) underlay.Finding {
	what := "TAP device " + cfg.TAP.Name
	if running {
		return finding(what, held, nil, "")
	}
	// Under another name: the bridge may wait for the right one.
	name := fmt.Sprintf("viaschk%d", os.Getpid()%1e7)
	d, err := tap.LinuxConfig{Name: name, MTU: cfg.TAP.MTU, LeaveDown: true}.Open(ctx)
	if err == nil {
		err = d.Close()
	}
	return finding(what, fmt.Sprintf("it can be made, with an MTU of %d", cfg.TAP.MTU), err,
		"run as root or with CAP_NET_ADMIN, with /dev/net/tun (modprobe tun)")
}

// checkPersistent: the user-space datapath does not notice that a device was made
// anew; it would go on reading the one that went away with the last node.
func checkPersistent(cfg *nodecfg.Config) underlay.Finding {
	const persist = 0x0800 // IFF_PERSIST, linux/if_tun.h
	name := cfg.TAP.Name
	text, err := os.ReadFile(filepath.Join("/sys/class/net", name, "tun_flags"))
	if err == nil {
		var tunFlags uint64
		tunFlags, err = strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32)
		if err == nil && tunFlags&persist == 0 {
			err = errors.New(name + " goes away with the node")
		}
	}
	return finding("the TAP outlives the node, so that the user-space switch goes on reading it", "", err,
		"before the node starts: ip tuntap add dev "+name+" mode tap (and before it is added to the bridge)")
}

// checkMTU: a workload's packet must fit the underlay as it is.
func checkMTU(cfg *nodecfg.Config) underlay.Finding {
	what := "the uplink takes the workloads' packets"
	i, err := net.InterfaceByName(cfg.Uplink)
	if err != nil {
		return finding(what, "", err, "check the uplink's name")
	}
	if i.MTU < cfg.TAP.MTU {
		err = fmt.Errorf("%s has an MTU of %d, the workloads of %d", cfg.Uplink, i.MTU, cfg.TAP.MTU)
	}
	return finding(what, fmt.Sprintf("MTU %d for workloads' %d", i.MTU, cfg.TAP.MTU), err,
		"lower tap.mtu and the workloads' MTU, or raise the uplink's")
}
