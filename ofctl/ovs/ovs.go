// Package ovs sets up Open vSwitch bridges and ports by its own tools, through
// github.com/digitalocean/go-openvswitch, and reads back as an independent witness
// ([Client.Witness]) what the native client of package ofctl wrote.
//
// What it does is declarative and idempotent, and it deletes only what it made:
// that is marked in the database (external_ids:vias-owner).
package ovs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	goovs "github.com/digitalocean/go-openvswitch/ovs"

	"github.com/viasnet/vias/ofctl"
)

// ErrNotOurs: the bridge or port was not made by this owner and is not deleted.
var ErrNotOurs = errors.New("ovs: not made by this owner")

// Config says which Open vSwitch. The zero value is the system's.
type Config struct {
	// RunDir is the directory of the daemons' sockets; "" = the tools' own default.
	RunDir string
	// DB is the database's address, such as "unix:/run/openvswitch/db.sock"; "" =
	// db.sock in RunDir.
	DB string
	// Owner marks what this client makes; "" = "vias".
	Owner string
	// Timeout bounds each command; 0 = 10 s.
	Timeout time.Duration
	// NoWait returns when a change is in the database, without waiting for
	// ovs-vswitchd to follow, which it cannot while it does not run.
	NoWait bool
	// Exec runs a program and returns what it writes to stdout; nil = run it, with
	// OVS_RUNDIR set. Tests replace it.
	Exec func(ctx context.Context, name string, args ...string) ([]byte, error)
}

// defaultRunDir is where Debian's packages have the sockets.
const defaultRunDir = "/var/run/openvswitch"

// Client sets up bridges and ports. It has no state but its Config, and may be
// used by several goroutines, though not for the same bridge.
type Client struct{ cfg Config }

// New makes a client; nothing is run.
func New(cfg Config) *Client {
	if cfg.Owner == "" {
		cfg.Owner = "vias"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	c := &Client{cfg: cfg}
	if c.cfg.Exec == nil {
		c.cfg.Exec = c.run
	}
	return c
}

// Mgmt is the address of a bridge's OpenFlow socket, for ofctl.Dial.
func (c *Client) Mgmt(bridge string) string {
	dir := c.cfg.RunDir
	if dir == "" {
		dir = defaultRunDir
	}
	return "unix:" + dir + "/" + bridge + ".mgmt"
}

// run is Config.Exec's default.
func (c *Client) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	if c.cfg.RunDir != "" {
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+c.cfg.RunDir)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// tools is a go-openvswitch client whose commands end with ctx.
func (c *Client) tools(ctx context.Context) *goovs.Client {
	return goovs.New(goovs.Protocols([]string{goovs.ProtocolOpenFlow13}),
		goovs.Exec(func(name string, args ...string) ([]byte, error) {
			if name == "ovs-vsctl" {
				args = append(c.vsctlFlags(), args...)
			}
			return c.cfg.Exec(ctx, name, args...)
		}))
}

func (c *Client) vsctlFlags() []string {
	var flags []string
	if c.cfg.DB != "" {
		flags = append(flags, "--db="+c.cfg.DB)
	}
	if c.cfg.NoWait {
		flags = append(flags, "--no-wait")
	}
	return flags
}

// vsctl runs one transaction of ovs-vsctl, for which go-openvswitch has no words.
func (c *Client) vsctl(ctx context.Context, args ...string) (string, error) {
	out, err := c.cfg.Exec(ctx, "ovs-vsctl", append(c.vsctlFlags(), args...)...)
	return strings.TrimSpace(string(out)), err
}

// Bridge is what EnsureBridge makes true.
type Bridge struct {
	Name string
	// DatapathType is "netdev" (user space) or "system" (kernel); "" = as it is, or
	// Open vSwitch's default.
	DatapathType string
	// FailMode is "secure" (no flow but ours) or "standalone" (one NORMAL flow); ""
	// = as it is.
	FailMode string
	// HWAddr becomes the bridge's own MAC; zero = as it is.
	HWAddr [6]byte
	// Trunks are the VLANs of the bridge's LOCAL port, 0 = untagged; nil = as it is.
	Trunks []uint16
	// ExternalIDs are set beside the owner's mark.
	ExternalIDs map[string]string
}

// Port is what EnsurePort makes true.
type Port struct {
	Name string
	// Type is the interface's type, such as "internal" or "afxdp"; "" = a network
	// device that is there.
	Type string
	// Tag makes it an access port of a VLAN; 0 = as it is.
	Tag uint16
	// Trunks are the VLANs that it carries, 0 = untagged; nil = as it is.
	Trunks []uint16
	// ExternalIDs are set beside the owner's mark.
	ExternalIDs map[string]string
	// InterfaceIDs are set on the port's interface, where others look for iface-id and
	// attached-mac, in the same transaction.
	InterfaceIDs map[string]string
}

// nameRE is what a Linux device may be called, without what ovs-vsctl would read
// as an option or a pattern.
var nameRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}$`)

var keyRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// EnsureBridge makes the bridge if there is none of its name, and sets what b says;
// made tells which. A bridge that was there stays its maker's: DeleteBridge refuses.
func (c *Client) EnsureBridge(ctx context.Context, b Bridge) (made bool, err error) {
	ids, err := externalIDs(b.ExternalIDs, b.Name)
	if err != nil {
		return false, err
	}
	bridges, err := c.tools(ctx).VSwitch.ListBridges()
	if err != nil {
		return false, fmt.Errorf("ovs: list bridges: %w", err)
	}
	made = !slices.Contains(bridges, b.Name)
	set := ids
	if b.DatapathType != "" {
		set = append(set, "datapath_type="+b.DatapathType)
	}
	if b.FailMode != "" {
		set = append(set, "fail_mode="+b.FailMode)
	}
	if m := b.HWAddr; m != ([6]byte{}) {
		set = append(set, fmt.Sprintf(`other_config:hwaddr="%02x:%02x:%02x:%02x:%02x:%02x"`, m[0], m[1], m[2], m[3], m[4], m[5]))
	}
	args := []string{"--may-exist", "add-br", b.Name}
	if made {
		set = append(set, c.mark())
	}
	if len(set) > 0 {
		args = append(append(args, "--", "set", "bridge", b.Name), set...)
	}
	if b.Trunks != nil {
		args = append(args, "--", "set", "port", b.Name, trunks(b.Trunks))
	}
	if _, err := c.vsctl(ctx, args...); err != nil {
		return false, fmt.Errorf("ovs: ensure bridge %s: %w", b.Name, err)
	}
	return made, nil
}

// EnsurePort adds the port to the bridge if it is not there, sets what p says, and
// returns its ofport. A port of another bridge is an error.
func (c *Client) EnsurePort(ctx context.Context, bridge string, p Port) (ofport uint32, err error) {
	ids, err := externalIDs(p.ExternalIDs, bridge, p.Name)
	if err != nil {
		return 0, err
	}
	ifaceIDs, err := externalIDs(p.InterfaceIDs)
	if err != nil {
		return 0, err
	}
	ports, err := c.tools(ctx).VSwitch.ListPorts(bridge)
	if err != nil {
		return 0, fmt.Errorf("ovs: list ports of %s: %w", bridge, err)
	}
	set := ids
	if !slices.Contains(ports, p.Name) {
		set = append(set, c.mark())
	}
	if p.Tag != 0 {
		set = append(set, "tag="+strconv.Itoa(int(p.Tag)))
	}
	if p.Trunks != nil {
		set = append(set, trunks(p.Trunks))
	}
	args := []string{"--may-exist", "add-port", bridge, p.Name}
	if len(set) > 0 {
		args = append(append(args, "--", "set", "port", p.Name), set...)
	}
	if p.Type != "" {
		ifaceIDs = append(ifaceIDs, "type="+p.Type)
	}
	if len(ifaceIDs) > 0 {
		args = append(append(args, "--", "set", "interface", p.Name), ifaceIDs...)
	}
	if _, err := c.vsctl(ctx, args...); err != nil {
		return 0, fmt.Errorf("ovs: ensure port %s: %w", p.Name, err)
	}
	return c.OFPort(ctx, p.Name)
}

// OFPort is the OpenFlow number of a port (or of a bridge's LOCAL port, by the
// bridge's name). It changes when a port is taken out and put back.
func (c *Client) OFPort(ctx context.Context, port string) (uint32, error) {
	if !nameRE.MatchString(port) {
		return 0, fmt.Errorf("ovs: %q is no name of a bridge or port", port)
	}
	text, err := c.vsctl(ctx, "get", "interface", port, "ofport", "error")
	if err != nil {
		return 0, fmt.Errorf("ovs: ofport of %s: %w", port, err)
	}
	number, why, _ := strings.Cut(text, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 32)
	if err != nil { // -1, or [] while the switch is not running
		return 0, fmt.Errorf("ovs: ofport of %s: the switch has none (%s): %s", port, number, why)
	}
	if n == localPort {
		return ofctl.PortLocal, nil
	}
	return uint32(n), nil
}

// localPort is what the database, which knows OpenFlow 1.0's 16 bits, calls LOCAL.
const localPort = 0xfffe

// DeletePort takes a port that EnsurePort added out of the bridge. One that is
// gone is no error, one that somebody else added is ErrNotOurs.
func (c *Client) DeletePort(ctx context.Context, bridge, port string) error {
	if _, err := externalIDs(nil, bridge, port); err != nil {
		return err
	}
	ports, err := c.tools(ctx).VSwitch.ListPorts(bridge)
	if err != nil {
		return fmt.Errorf("ovs: list ports of %s: %w", bridge, err)
	}
	if !slices.Contains(ports, port) {
		return nil
	}
	if err := c.checkMark(ctx, "port", port); err != nil {
		return fmt.Errorf("ovs: delete port %s: %w", port, err)
	}
	if err := c.tools(ctx).VSwitch.DeletePort(bridge, port); err != nil {
		return fmt.Errorf("ovs: delete port %s: %w", port, err)
	}
	return nil
}

// DeleteBridge deletes a bridge that EnsureBridge made. One that is gone is no
// error, one that somebody else made is ErrNotOurs.
func (c *Client) DeleteBridge(ctx context.Context, bridge string) error {
	if _, err := externalIDs(nil, bridge); err != nil {
		return err
	}
	bridges, err := c.tools(ctx).VSwitch.ListBridges()
	if err != nil {
		return fmt.Errorf("ovs: list bridges: %w", err)
	}
	if !slices.Contains(bridges, bridge) {
		return nil
	}
	if err := c.checkMark(ctx, "bridge", bridge); err != nil {
		return fmt.Errorf("ovs: delete bridge %s: %w", bridge, err)
	}
	if err := c.tools(ctx).VSwitch.DeleteBridge(bridge); err != nil {
		return fmt.Errorf("ovs: delete bridge %s: %w", bridge, err)
	}
	return nil
}

// ownerKey is where the owner's mark is in external_ids.
const ownerKey = "vias-owner"

func (c *Client) mark() string { return "external_ids:" + ownerKey + "=" + quote(c.cfg.Owner) }

// checkMark returns ErrNotOurs unless the row has the owner's mark.
func (c *Client) checkMark(ctx context.Context, table, name string) error {
	text, err := c.vsctl(ctx, "--if-exists", "get", table, name, "external_ids:"+ownerKey)
	if err != nil {
		return err
	}
	if text != quote(c.cfg.Owner) && text != c.cfg.Owner {
		return ErrNotOurs
	}
	return nil
}

// externalIDs is ids as assignments in a fixed order. It refuses names that
// ovs-vsctl would not take for names.
func externalIDs(ids map[string]string, names ...string) ([]string, error) {
	for _, n := range names {
		if !nameRE.MatchString(n) {
			return nil, fmt.Errorf("ovs: %q is no name of a bridge or port", n)
		}
	}
	var set []string
	for key, value := range ids {
		if !keyRE.MatchString(key) || key == ownerKey {
			return nil, fmt.Errorf("ovs: %q is no key for external_ids", key)
		}
		set = append(set, "external_ids:"+key+"="+quote(value))
	}
	slices.Sort(set)
	return set, nil
}

// quote is s as the database's tools write a string.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(b)
}

func trunks(vlans []uint16) string {
	words := make([]string, 0, len(vlans))
	for _, v := range vlans {
		words = append(words, strconv.Itoa(int(v)))
	}
	return "trunks=[" + strings.Join(words, ",") + "]"
}
