//go:build !linux

package tap

func openTUN(LinuxConfig) (Device, error) { return nil, ErrNotSupported }
