//go:build !linux

package underlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/viasnet/vias/bypass"
)

// Underlay exists on Linux only; elsewhere Open fails.
type Underlay struct{}

var errOS = fmt.Errorf("underlay: bypass needs Linux: %w", errors.ErrUnsupported)

// Open fails with an error that matches errors.ErrUnsupported.
func Open(Config) (*Underlay, error) { return nil, errOS }

// Addrs fails.
func (*Underlay) Addrs(context.Context) ([]netip.Prefix, error) { return nil, errOS }

// Route fails.
func (*Underlay) Route(context.Context, netip.Addr) (bypass.Route, error) {
	return bypass.Route{}, errOS
}

// Watch fails.
func (*Underlay) Watch(context.Context, func()) error { return errOS }

// Guard fails.
func (*Underlay) Guard(context.Context, bypass.PortRange, []netip.Addr) error { return errOS }

// Close does nothing.
func (*Underlay) Close() error { return nil }

// Preflight says that this is no Linux.
func Preflight(context.Context, CheckConfig) []Finding {
	return []Finding{{What: "operating system", Detail: errOS.Error(), Remedy: "run the node on Linux"}}
}
