package ofctltest

import (
	"context"

	"github.com/viasnet/vias/ofctl"
)

var _ ofctl.Switch = (*Switch)(nil)

// conn is the Switch's own connection.
func (s *Switch) conn() *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.self
}

// Features is as in ofctl.Switch.
func (s *Switch) Features() ofctl.Features { return s.conn().Features() }

// Apply is as Conn's.
func (s *Switch) Apply(ctx context.Context, mods []ofctl.Mod) error {
	return s.conn().Apply(ctx, mods)
}

// Flows is as Conn's.
func (s *Switch) Flows(ctx context.Context, filter ofctl.FlowFilter) ([]ofctl.FlowStat, error) {
	return s.conn().Flows(ctx, filter)
}

// Aggregate is as Conn's.
func (s *Switch) Aggregate(ctx context.Context, filter ofctl.FlowFilter) (ofctl.Aggregate, error) {
	return s.conn().Aggregate(ctx, filter)
}

// Groups is as Conn's.
func (s *Switch) Groups(ctx context.Context) ([]ofctl.Group, error) { return s.conn().Groups(ctx) }

// Meters is as Conn's.
func (s *Switch) Meters(ctx context.Context) ([]ofctl.Meter, error) { return s.conn().Meters(ctx) }

// Ports is as Conn's.
func (s *Switch) Ports(ctx context.Context) ([]ofctl.Port, error) { return s.conn().Ports(ctx) }

// PacketOut is as Conn's.
func (s *Switch) PacketOut(ctx context.Context, p ofctl.PacketOut) error {
	return s.conn().PacketOut(ctx, p)
}

// Watch is as Conn's: Disconnect and Restart end it.
func (s *Switch) Watch(ctx context.Context, f func(ofctl.Event)) error {
	return s.conn().Watch(ctx, f)
}
