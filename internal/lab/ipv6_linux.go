package lab

import "context"

// noIPv6 takes IPv6 from all devices that a fresh namespace will get, but for those that
// staticIPv6 gives it to.
func (l *Lab) noIPv6(ctx context.Context, ns string) error {
	_, err := l.in(ctx, ns, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
	return err
}

// staticIPv6 gives a device IPv6 without anything that comes by itself: it has the
// addresses that it is given, at once, and solicits no router. What is on the provider's
// network then has a reason; only reports of multicast groups, which belong to these
// addresses, cannot be turned off.
func (l *Lab) staticIPv6(ctx context.Context, ns, dev string) error {
	of := "net.ipv6.conf." + dev + "."
	_, err := l.in(ctx, ns, "sysctl", "-qw", of+"addr_gen_mode=1", of+"accept_ra=0", of+"accept_dad=0", of+"disable_ipv6=0")
	return err
}
