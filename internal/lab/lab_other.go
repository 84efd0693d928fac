//go:build !linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

var errOS = fmt.Errorf("%w: needs Linux: %w", ErrLab, errors.ErrUnsupported)

// Lab exists on Linux only; elsewhere Up fails.
type Lab struct{}

// MeasureConfig is not used here.
type MeasureConfig struct {
	Duration   time.Duration
	Rounds     int
	NativeOnly bool
	Progress   func(round int, m Mode, s Sample)
}

// Ready fails with an error that matches errors.ErrUnsupported.
func Ready(...string) error { return errOS }

// Up fails.
func Up(context.Context, Config) (*Lab, error) { return nil, errOS }

// Down fails.
func Down(context.Context, Config) error { return errOS }

// Down does nothing.
func (*Lab) Down(context.Context) error { return nil }

// Dir is empty.
func (*Lab) Dir() string { return "" }

// StartNodes fails.
func (*Lab) StartNodes(context.Context, string) error { return errOS }

// Measure fails.
func (*Lab) Measure(context.Context, MeasureConfig) (Report, error) { return Report{}, errOS }

// Matrix fails.
func (*Lab) Matrix(context.Context, MatrixConfig) (Matrix, error) { return nil, errOS }

// Latency fails.
func (*Lab) Latency(context.Context, LatencyConfig) (Latency, error) { return Latency{}, errOS }

// Survive fails.
func (*Lab) Survive(context.Context, func(Blow)) (Survival, error) { return Survival{}, errOS }

// Describe writes nothing.
func (*Lab) Describe(io.Writer) {}

// LXCWorks fails.
func LXCWorks(context.Context) error { return fmt.Errorf("%w: %w", ErrLXC, errOS) }

// Between returns l.
func (l *Lab) Between(_, _, _ int) *Lab { return l }

// Reach fails.
func (*Lab) Reach(context.Context) (Reach, error) { return Reach{}, errOS }

// SystemContainers fails.
func (*Lab) SystemContainers(context.Context, int, int, time.Duration) (System, error) {
	return System{}, errOS
}

// Chaos fails.
func Chaos(context.Context, ChaosConfig) (ChaosReport, error) { return ChaosReport{}, errOS }

// Clouds fails.
func Clouds(context.Context, CloudsConfig) (CloudsReport, error) { return CloudsReport{}, errOS }
