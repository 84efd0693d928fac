package lab

import (
	"context"
	"fmt"

	"github.com/viasnet/vias/internal/lab/nat"
)

// provider builds the sites, and what joins them.
func (l *Lab) provider(ctx context.Context) error {
	if err := l.router(ctx, l.cfg.outside()); err != nil {
		return err
	}
	for i := range l.cfg.Sites {
		s := l.cfg.siteNr(i)
		if s.Outside.IsValid() {
			if err := l.cloud(ctx, s); err != nil {
				return fmt.Errorf("site %d: %w", i+1, err)
			}
		}
		if err := l.link(ctx, s); err != nil {
			return fmt.Errorf("site %d: %w", i+1, err)
		}
	}
	return nil
}

// router is a namespace that forwards.
func (l *Lab) router(ctx context.Context, ns string) error {
	if err := l.namespace(ctx, ns); err != nil {
		return err
	}
	if err := l.noIPv6(ctx, ns); err != nil {
		return err
	}
	_, err := l.in(ctx, ns, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return err
}

// optionsOver is how much longer than the uplink's MTU Open vSwitch 3.1 makes a segment, if it is the switch in user space that
// has to say how a super-frame is cut (userspace-tso-enable): it allows for 14 bytes of TCP options, and there may be
// 40. Switches let that pass, as here; a router refuses it (trap 46).
const optionsOver = 26

// link is a bridge with the router's address, to which hosts are plugged.
func (l *Lab) link(ctx context.Context, s site) error {
	if err := l.ip(ctx, s.namespace, fmt.Sprintf("link add %s address %s type bridge mcast_snooping 0", s.bridge, s.routerMAC())); err != nil {
		return err
	}
	if err := l.staticIPv6(ctx, s.namespace, s.bridge); err != nil {
		return err
	}
	if err := l.finishFrames(ctx, s.namespace, s.bridge); err != nil {
		return err
	}
	return l.ips(ctx, s.namespace,
		fmt.Sprintf("link set %s mtu %d up", s.bridge, l.cfg.UnderlayMTU+optionsOver),
		fmt.Sprintf("addr add %s/%d dev %s", s.gateway(), s.Prefix.Bits(), s.bridge),
		fmt.Sprintf("addr add %s/64 dev %s nodad", linkLocal(254), s.bridge),
		fmt.Sprintf("addr add %s/%d dev %s nodad", s.gateway6(), s.prefix6().Bits(), s.bridge))
}

// cloud is a router of the site's own, known outside by one address, which is its
// first host's.
func (l *Lab) cloud(ctx context.Context, s site) error {
	if err := l.router(ctx, s.namespace); err != nil {
		return err
	}
	far := fmt.Sprintf("cloud%d", s.nr+1)
	if err := l.ips(ctx, s.namespace,
		fmt.Sprintf("link add wan mtu %d type veth peer name %s mtu %d netns %s", l.cfg.UnderlayMTU, far, l.cfg.UnderlayMTU, l.cfg.outside()),
		"link set wan up", fmt.Sprintf("addr add %s dev wan", s.Outside)); err != nil {
		return err
	}
	if err := l.ips(ctx, l.cfg.outside(),
		fmt.Sprintf("link set %s up", far), fmt.Sprintf("addr add %s/24 dev %s", nth(s.Outside, 254), far)); err != nil {
		return err
	}
	if err := l.ip(ctx, s.namespace, "route add default via "+nth(s.Outside, 254).String()); err != nil {
		return err
	}
	if s.NAT != nil {
		return l.translate(ctx, s, *s.NAT)
	}
	_, err := l.in(ctx, s.namespace, "nft", fmt.Sprintf("table ip cloud {"+
		" chain in { type nat hook prerouting priority -100; iif wan ip daddr %s dnat to %s; };"+
		" chain out { type nat hook postrouting priority 100; oif wan masquerade; }; }", s.Outside.Addr(), s.host(s.nr+1)))
	return err
}

// translate makes a cloud's router that NAT, in the place of what it was. Flows that it has
// in mind stay as they were.
func (l *Lab) translate(ctx context.Context, s site, r nat.Router) error {
	r.Outer = s.Outside.Addr()
	rules, err := r.Rules()
	if err != nil {
		return err
	}
	// The hosts of a cloud are switched in the same namespace: not by the router's rules.
	_, err = l.in(ctx, s.namespace, "sh", "-c",
		"for c in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $c ] || echo 0 >$c; done; exec nft -f - <<'END'\n"+rules+"END\n")
	return err
}
