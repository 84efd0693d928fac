package tap

import (
	"context"
	"errors"
	"fmt"
)

// LinuxConfig describes a Linux TAP device. Only Name is needed.
type LinuxConfig struct {
	// Name of the interface: 1 to 15 bytes. A persistent TAP of this name is
	// taken over when no other process holds it; otherwise one is made, which goes
	// away with Close.
	Name string
	// MTU to set, in bytes. 0: leave the interface's (1500 for a new one).
	MTU int
	// LeaveDown: do not set the link up. Whoever configures the interface does;
	// until then frames written are dropped and none can be read.
	LeaveDown bool
	// Join lets TCP segments be written as super-frames (Caps.Join), which whoever gets
	// them must take: this host's own stack and a kernel bridge do, Open vSwitch's kernel
	// datapath does, its user-space datapath only with userspace-tso-enable. For those who
	// do not, super-frames are too long, and their checksums wrong.
	Join bool
	// JoinUDP is the same for UDP datagrams (Caps.JoinUDP): Open vSwitch's user-space
	// datapath loses their super-frames, with userspace-tso-enable too. It needs Join.
	JoinUDP bool
	// NoOffload: let the kernel finish every frame; Caps is then zero. Much slower.
	NoOffload bool
}

// Linux opens the TAP device name with defaults: every offload that the kernel
// has, the interface's own MTU, link up. Elsewhere than on Linux opening fails
// with [ErrNotSupported].
func Linux(name string) Opener { return LinuxConfig{Name: name}.Open }

// Open is an [Opener]. It needs CAP_NET_ADMIN and /dev/net/tun, acts in the
// calling thread's network namespace, and does not block. The Device is a
// [Counted]; its MTU is the interface's when it was opened. Offloads that the
// kernel refuses are left out, and Caps says so.
func (c LinuxConfig) Open(context.Context) (Device, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("tap: open %q: %w", c.Name, err)
	}
	d, err := openTUN(c)
	if err != nil {
		return nil, fmt.Errorf("tap: open %q: %w", c.Name, err)
	}
	return d, nil
}

// maxName is the kernel's IFNAMSIZ less the final NUL.
const maxName = 15

func (c LinuxConfig) check() error {
	switch {
	case c.Name == "":
		return errors.New("an interface name is needed")
	case len(c.Name) > maxName:
		return fmt.Errorf("the name has %d bytes; Linux takes at most %d", len(c.Name), maxName)
	case c.MTU < 0 || c.MTU > 65535:
		return fmt.Errorf("an MTU of %d is not possible", c.MTU)
	}
	return nil
}
