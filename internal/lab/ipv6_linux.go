package lab

import "context"

// quietIPv6 readies a fresh namespace of the provider's or of a host: its devices have no
// IPv6 but for those that staticIPv6 names, and the kernel's own chatter (router
// solicitations, reports of multicast groups) does not leave it. What is on the
// provider's network then has a reason.
func (l *Lab) quietIPv6(ctx context.Context, ns string) error {
	if _, err := l.in(ctx, ns, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"); err != nil {
		return err
	}
	_, err := l.in(ctx, ns, "nft", "table ip6 quiet { chain out { type filter hook output priority 0;"+
		" icmpv6 type { 130, 131, 132, 133, 134, 143 } drop; }; }")
	return err
}

// staticIPv6 gives a device IPv6 without anything that comes by itself: it has the
// addresses that it is given, at once.
func (l *Lab) staticIPv6(ctx context.Context, ns, dev string) error {
	of := "net.ipv6.conf." + dev + "."
	_, err := l.in(ctx, ns, "sysctl", "-qw", of+"addr_gen_mode=1", of+"accept_ra=0", of+"accept_dad=0", of+"disable_ipv6=0")
	return err
}
