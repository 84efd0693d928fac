package lab

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"text/tabwriter"
)

// machineBridge joins the virtual machines of a physical machine, and its uplink.
const machineBridge = "vmbr0"

// ErrLXC: LXC cannot start a container here; the text has what it said.
var ErrLXC = errors.New("lxc")

// workloads is how many containers each host has in all.
func (c Config) workloads() int {
	if c.LXC {
		return c.Containers + 1
	}
	return c.Containers
}

// machine is the namespace of a physical machine.
func (c Config) machine(nr int) string { return c.Prefix + "m" + strconv.Itoa(nr) }

// machineAddr is its own address on the provider's link, beside those of its hosts.
func (c Config) machineAddr(nr int) netip.Addr { return nth(c.siteNr(0).Prefix, byte(100+nr)) }

// joins is the bridge that the host's uplink is plugged into.
func (h *Host) joins(at site) string {
	if h.Machine > 0 {
		return machineBridge
	}
	return at.bridge
}

// Ways between two containers.
const (
	WaySwitch = "switch" // both are of one host: its switch
	WayBypass = "bypass"
)

// Reached is how two containers reach each other.
type Reached struct {
	From, To string
	Way      string
	// Place says what lies between: "one VM", "one machine", "the provider".
	Place string
	// There and Back are bytes of a TCP connection; the checksums were right.
	There, Back uint64
	// RuleShare is how much of them the switches' rules counted, at the end that counted
	// less; 0 for WaySwitch.
	RuleShare float64
}

// Reach is who reaches whom, by one TCP connection each, all at once.
type Reach struct {
	Pairs []Reached
	// TAPShare is what went through the nodes, as a share of the bytes between hosts.
	TAPShare float64
}

// Print writes the table.
func (r Reach) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "from\tto\tacross\tway\tKB there\tKB back\tshare of the switches' rules")
	for _, p := range r.Pairs {
		share := "-"
		if p.Way == WayBypass {
			share = fmt.Sprintf("%.3f", p.RuleShare)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", p.From, p.To, p.Place, p.Way, p.There/1000, p.Back/1000, share)
	}
	_ = w.Flush()
	fmt.Fprintf(out, "all checksums are right; of what went between hosts the nodes carried %.4f\n", r.TAPShare)
}

// place says what lies between two hosts.
func place(a, b *Host) string {
	switch {
	case a == b:
		return "one VM"
	case a.Machine == b.Machine:
		return "one machine"
	}
	return "the provider"
}

// System is one transfer between two system containers, by programs that run in them.
type System struct {
	From, To string
	Mbps     float64
	Proof    Proof
}
