// Package underlay is bypass.Underlay on Linux: addresses, routes and neighbours
// of the uplink by netlink, and the host guard by nftables. It also holds the
// checks that `node check` runs before a bypass is tried (Preflight).
//
// An Underlay belongs to the network namespace of the thread that opened it, and
// stays there whichever thread calls it later.
package underlay

import (
	"log/slog"
	"time"
)

// Config is what Open needs to know. It is a blueprint.
type Config struct {
	// Device holds the uplink's addresses and routes: the bridge (br0) when the
	// uplink is one of its ports. "" = Uplink.
	Device string
	// Uplink is the network interface towards the provider (eth0). Required.
	Uplink string
	// ResolveTimeout bounds how long Route waits for a next hop's MAC; 0 = 1 s.
	ResolveTimeout time.Duration
	// NFT is the nft program that Guard starts; "" = "nft" from PATH.
	NFT string
	// Logger tells of a guard that had to be restarted; nil = silent.
	Logger *slog.Logger
}

func (c Config) normal() Config {
	if c.Device == "" {
		c.Device = c.Uplink
	}
	if c.ResolveTimeout == 0 {
		c.ResolveTimeout = time.Second
	}
	if c.NFT == "" {
		c.NFT = "nft"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
