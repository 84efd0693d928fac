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
	// SuperFrame is the longest TCP super-frame that this host's own stack is to hand over, in
	// bytes of IP packet; 0: what the kernel thinks best, 64 KB. It is for a TAP that is the
	// workload's own interface: longer ones that somebody forwards to it, a bridge say, the
	// kernel cuts into single segments first.
	SuperFrame int
	// Queues is how many goroutines can read and write at once (IFF_MULTI_QUEUE, see
	// [MultiQueue]): 1 to MaxQueues; 0 = 1. The kernel gives a flow's frames to the queue that
	// the flow's others were written to. A persistent TAP must have been made with
	// multi_queue if this is more than 1. Where two nodes share two cores, a second queue made
	// no clear difference to TCP, took more small packets, and cost a round trip some
	// microseconds: it is for machines with cores to spare.
	Queues int
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

// MaxQueues is how many queues a Device has at most.
const MaxQueues = 8

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
	case c.Queues < 0 || c.Queues > MaxQueues:
		return fmt.Errorf("%d queues are not possible; at most %d", c.Queues, MaxQueues)
	case c.SuperFrame < 0 || c.SuperFrame > 65536:
		return fmt.Errorf("super-frames of %d bytes are not possible", c.SuperFrame)
	}
	return nil
}
