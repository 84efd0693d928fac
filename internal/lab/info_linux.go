package lab

import (
	"fmt"
	"io"
	"strings"
)

// Describe tells how to enter each namespace and where everything of it is.
func (l *Lab) Describe(out io.Writer) {
	fmt.Fprintf(out, "lab in %s (state: %s)\n", l.cfg.dir(), statePath(l.cfg.dir()))
	for i := range l.cfg.Sites {
		s := l.cfg.siteNr(i)
		fmt.Fprintf(out, "provider network %s, router %s: ip netns exec %s bash\n", s.Prefix, s.gateway(), s.namespace)
	}
	for nr := 1; nr <= l.cfg.Machines; nr++ {
		fmt.Fprintf(out, "machine %d, %s, bridge %s: ip netns exec %s bash\n", nr, l.cfg.machineAddr(nr), machineBridge, l.cfg.machine(nr))
	}
	for _, h := range l.hosts {
		fmt.Fprintf(out, "host %d, %s: ip netns exec %s bash\n", h.Index, h.Addr, h.Namespace)
		if pid := l.NodePID(h.Index); pid != 0 {
			fmt.Fprintf(out, "  node     pid %d\n", pid)
			fmt.Fprintf(out, "  config   %s\n", h.Config())
			fmt.Fprintf(out, "  log      %s\n", h.Log())
			fmt.Fprintf(out, "  status   %s\n", h.Status())
		}
		fmt.Fprintf(out, "  ovs      %s (OVS_RUNDIR=%s ovs-vsctl show; ovs-ofctl -OOpenFlow13 dump-flows %s)\n",
			h.OVSDir, h.OVSDir, l.OVS(h.Index).Mgmt(bridge))
		for _, c := range h.Containers {
			fmt.Fprintf(out, "  container %s, %s, port %s (ofport %d): ip netns exec %s bash\n", c.Name, c.Addr, c.Port, c.Ofport, c.Namespace)
			if c.LXC {
				fmt.Fprintf(out, "    by LXC: %s\n", strings.Join(l.attachArgs(h, c), " "))
			}
		}
	}
}
