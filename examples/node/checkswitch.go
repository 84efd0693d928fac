package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/viasnet/vias/bypass/underlay"
	"github.com/viasnet/vias/internal/nodecfg"
	"github.com/viasnet/vias/ofctl"
)

// checkSwitch connects to the bridge as the node does.
func checkSwitch(ctx context.Context, cfg *nodecfg.Config) []underlay.Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	what := "OpenFlow 1.3 on " + cfg.OpenFlow
	sw, err := ofctl.Dial(ctx, cfg.OpenFlow, ofctl.Config{})
	if err != nil {
		return []underlay.Finding{finding(what, "", err,
			"start Open vSwitch, make the bridge (ovs-vsctl add-br "+cfg.Bridge+"), let this user open its .mgmt socket")}
	}
	defer sw.Close()
	list := []underlay.Finding{
		finding(what, "it answers", nil, ""),
		finding("the switch can bypass", "", lacks(sw.Features()), "Open vSwitch 2.13 or later has all of it"),
	}
	ports, err := sw.Ports(ctx)
	if err == nil {
		err = absent(cfg, ports)
	}
	list = append(list, finding("ports of "+cfg.Bridge, "uplink and endpoints are there", err,
		"ovs-vsctl add-port "+cfg.Bridge+" PORT; the node waits for endpoints' ports"))
	if cfg.External != nil {
		list = append(list, checkExternal(ctx, cfg))
	}
	return list
}

// checkExternal connects to the bridge of the uplink, where that is another one.
func checkExternal(ctx context.Context, cfg *nodecfg.Config) underlay.Finding {
	e := cfg.External
	what := "external bridge " + e.Bridge + " on " + e.OpenFlow
	sw, err := ofctl.Dial(ctx, e.OpenFlow, ofctl.Config{})
	if err != nil {
		return finding(what, "", err, "make the bridge (ovs-vsctl add-br "+e.Bridge+"), let this user open its .mgmt socket, or give external.openflow")
	}
	defer sw.Close()
	ports, err := sw.Ports(ctx)
	for _, name := range []string{cfg.Uplink, e.Patch} {
		if err == nil && !slices.ContainsFunc(ports, func(p ofctl.Port) bool { return p.Name == name }) {
			err = errors.New("missing: " + name)
		}
	}
	return finding(what, "uplink and patch port are there", err, fmt.Sprintf("ovs-vsctl add-port %s %s -- set interface %s type=patch options:peer=%s",
		e.Bridge, e.Patch, e.Patch, e.Peer))
}

// lacks names the extensions that are missing.
func lacks(f ofctl.Features) error {
	var errs []error
	for c, name := range map[ofctl.Capabilities]string{
		ofctl.CapBundle: "atomic bundles", ofctl.CapFragMatch: "nw_frag", ofctl.CapPortMask: "masked ports",
		ofctl.CapTether: "learn with delete_learned",
	} {
		if !f.Capabilities.Has(c) {
			errs = append(errs, errors.New("it lacks "+name))
		}
	}
	return errors.Join(errs...)
}

// absent names the ports that the configuration has and the bridge has not.
func absent(cfg *nodecfg.Config, ports []ofctl.Port) error {
	has := func(name string, no uint32) bool {
		return slices.ContainsFunc(ports, func(p ofctl.Port) bool { return p.Name == name || no != 0 && p.No == no })
	}
	var names []string
	if !has(cfg.UplinkPort(), 0) {
		names = append(names, cfg.UplinkPort())
	}
	for _, e := range cfg.Endpoints {
		if !has(e.Port, e.Ofport) {
			names = append(names, fmt.Sprintf("%s (%s)", e.Port, e.Name))
		}
	}
	if len(names) > 0 {
		return errors.New("missing: " + strings.Join(names, ", "))
	}
	return nil
}

// database is Open vSwitch's, by ovs-vsctl.
type database struct{ addr string }

// get reads a column; "" for an empty one.
func (d database) get(ctx context.Context, table, record, column string) (string, error) {
	return d.vsctl(ctx, "get", table, record, column)
}

func (d database) vsctl(ctx context.Context, command ...string) (string, error) {
	args := []string{"--timeout=5"}
	if d.addr != "" {
		args = append(args, "--db="+d.addr)
	}
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, "ovs-vsctl", append(args, command...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ovs-vsctl: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return strings.Trim(strings.TrimSpace(string(out)), `[]"`), nil
}

// checkChecksums warns of what becomes of partial checksums, which workloads leave to their
// network card: the user-space datapath has to complete them, or to have the uplink do it.
func (d database) checkChecksums(ctx context.Context, cfg *nodecfg.Config) underlay.Finding {
	tso, err := d.tso(ctx)
	if err != nil {
		return finding(checksums, "", err, "start Open vSwitch")
	}
	return judgeChecksums(tso, hasHardware(cfg.Uplink), cfg)
}

// tso tells whether the user-space datapath takes super-frames.
func (d database) tso(ctx context.Context) (bool, error) {
	text, err := d.vsctl(ctx, "--if-exists", "get", "Open_vSwitch", ".", "other_config:userspace-tso-enable")
	return text == "true", err
}

// takesSuperFrames tells whether what is behind the TAP does: the host's own stack and the
// kernel datapath, and for TCP the user-space datapath with TSO. In doubt it does not.
func takesSuperFrames(ctx context.Context, cfg *nodecfg.Config) (tcp, udp bool) {
	if cfg.Bridge == "" {
		return true, true
	}
	d := database{cfg.OVSDB}
	kind, err := d.get(ctx, "bridge", cfg.Bridge, "datapath_type")
	if err != nil || kind != "netdev" {
		return err == nil, err == nil
	}
	tso, err := d.tso(ctx)
	return tso && err == nil, false
}

const checksums = "checksums on the bypass"

// judgeChecksums is for the user-space datapath. A finding that is met and has a remedy is
// a warning: the workloads' own offloads cannot be seen from here.
func judgeChecksums(tso, hardware bool, cfg *nodecfg.Config) underlay.Finding {
	const off = "in each workload: ethtool -K DEVICE tx off"
	switch {
	case tso && hardware:
		// Open vSwitch 3.1: after set_field the sum that the card completes is wrong. A
		// virtual link carries it on as it is, and nobody looks.
		return underlay.Finding{What: checksums, OK: true,
			Detail: "datapath_type=netdev with userspace-tso-enable=true on " + cfg.Uplink +
				", a real card: rewritten segments of workloads that offload checksums may leave with wrong ones",
			Remedy: off + "; or the kernel datapath: ovs-vsctl set bridge " + cfg.Bridge + " datapath_type=system"}
	case tso:
		return finding(checksums, "userspace-tso-enable on a virtual uplink: partial ones are carried on as they are", nil, "")
	}
	return underlay.Finding{What: checksums, OK: true,
		Detail: "datapath_type=netdev without userspace-tso-enable: nobody completes those that workloads offload, on the bypass or off it",
		Remedy: off + ", unless that is done"}
}

// hasHardware tells whether an interface is a card, or looks like one to this machine.
func hasHardware(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", name, "device"))
	return err == nil
}

// checkTags: the isolation of workloads and provider must live in the database, since
// a switch that restarts has no flows.
func (d database) checkTags(ctx context.Context, cfg *nodecfg.Config) underlay.Finding {
	what := "VLAN tags keep workloads and the provider's network apart"
	remedy := fmt.Sprintf("ovs-vsctl set port PORT tag=7 for %s and each endpoint's port, and trunks=0 for %s",
		cfg.TAP.Name, strings.Join(outsidePorts(cfg), " and "))
	tag, err := d.get(ctx, "port", cfg.TAP.Name, "tag")
	if err != nil || tag == "" {
		if err == nil {
			err = errors.New(cfg.TAP.Name + " has no tag")
		}
		return finding(what, "", err, remedy)
	}
	for _, e := range cfg.Endpoints {
		if e.Port == "" {
			continue
		}
		t, err := d.get(ctx, "port", e.Port, "tag")
		if err == nil && t != tag {
			err = fmt.Errorf("%s has tag %q, %s has %s", e.Port, t, cfg.TAP.Name, tag)
		}
		if err != nil {
			return finding(what, "", err, remedy)
		}
	}
	for _, port := range outsidePorts(cfg) {
		if err := d.apart(ctx, port, tag); err != nil {
			return finding(what, "", err, remedy)
		}
	}
	return finding(what, "workloads have tag "+tag, nil, "")
}

// outsidePorts are those of the workloads' bridge that lead to the provider's network and to the host.
func outsidePorts(cfg *nodecfg.Config) []string { return []string{cfg.UplinkPort(), cfg.Bridge} }

// apart tells whether port does not carry the VLAN tag.
func (d database) apart(ctx context.Context, port, tag string) error {
	own, err := d.get(ctx, "port", port, "tag")
	if err != nil {
		return err
	}
	trunks, err := d.get(ctx, "port", port, "trunks")
	if err != nil {
		return err
	}
	carries := trunks == "" || slices.Contains(strings.Split(strings.ReplaceAll(trunks, " ", ""), ","), tag)
	if own == tag || own == "" && carries {
		return fmt.Errorf("%s carries the workloads' VLAN %s", port, tag)
	}
	return nil
}
