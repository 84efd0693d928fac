package tap

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// tun is a TAP device's file. The file is non-blocking and in Go's poller, so
// that Close ends a wait.
type tun struct {
	file   *os.File
	mtu    int
	caps   Caps
	closed atomic.Bool
	reader tunReader
	writer tunWriter
}

// openTUN makes or takes over the interface and sets it up.
func openTUN(c LinuxConfig) (Device, error) {
	first, err := openQueue(c)
	if err != nil {
		return nil, err
	}
	if c.Queues <= 1 {
		return first, nil
	}
	m := &multiTUN{tun: first, queues: []Device{nil}}
	m.queues[0] = m
	for len(m.queues) < c.Queues {
		q, err := openQueue(c)
		if err != nil {
			_ = m.Close()
			return nil, fmt.Errorf("queue %d: %w", len(m.queues)+1, err)
		}
		m.queues = append(m.queues, q)
	}
	return m, nil
}

// multiTUN is a TAP with several queues, of which it is the first. It implements MultiQueue.
type multiTUN struct {
	*tun
	queues []Device
}

// Queues implements MultiQueue.
func (m *multiTUN) Queues() []Device { return m.queues }

// Stats implements Counted, for all queues.
func (m *multiTUN) Stats() Stats {
	s := m.tun.Stats()
	for _, q := range m.queues[1:] {
		x := q.(*tun).Stats()
		s.ReadDropped += x.ReadDropped
		s.WriteDropped += x.WriteDropped
	}
	return s
}

// Close implements Device.
func (m *multiTUN) Close() error {
	err := m.tun.Close()
	for _, q := range m.queues[1:] {
		err = errors.Join(err, q.Close())
	}
	return err
}

// openQueue opens one queue of the interface.
func openQueue(c LinuxConfig) (*tun, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainOpen(err)
	}
	d := &tun{}
	if err := d.setup(fd, c); err != nil {
		_ = unix.Close(fd) // the cause is err
		return nil, err
	}
	// Only now: a tun file that has no interface yet is not pollable.
	d.file = os.NewFile(uintptr(fd), tunPath)
	raw, err := d.file.SyscallConn()
	if err != nil {
		_ = d.file.Close()
		return nil, fmt.Errorf("poll: %w", err)
	}
	d.reader.init(raw, d.readLimit())
	d.writer.init(raw, d.mtu, d.caps)
	return d, nil
}

func (d *tun) setup(fd int, c LinuxConfig) error {
	if err := attach(fd, c.Name, c.Queues > 1); err != nil {
		return explainAttach(err)
	}
	// A persistent TAP may have kept another program's header length.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, virtioHeaderLen); err != nil {
		return fmt.Errorf("set virtio header length: %w", err)
	}
	caps, err := setOffload(fd, c.NoOffload)
	if err != nil {
		return fmt.Errorf("set offloads: %w", err)
	}
	caps.Join = c.Join && caps.Offload
	caps.JoinUDP = c.JoinUDP && caps.Join && caps.USO
	d.caps = caps
	d.mtu, err = configure(c)
	return err
}

// readLimit is the longest frame that the kernel may hand us.
func (d *tun) readLimit() int {
	if d.caps.Offload {
		return MaxFrame
	}
	return d.mtu + HeaderLen + TagLen
}

func attach(fd int, name string, multi bool) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}

// setOffload asks for the most first. What is written may carry TCP super-frames
// whatever the answer (every kernel cuts them); UDP ones only if USO is known.
func setOffload(fd int, none bool) (Caps, error) {
	const (
		tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		uso = tso | unix.TUN_F_USO4 | unix.TUN_F_USO6
	)
	steps := []struct {
		flags int
		caps  Caps
	}{
		{uso, Caps{Offload: true, USO: true}},
		{tso, Caps{Offload: true}},
		{unix.TUN_F_CSUM, Caps{Offload: true}},
		{0, Caps{}},
	}
	if none {
		steps = steps[len(steps)-1:]
	}
	var err error
	for _, s := range steps {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, s.flags); err == nil {
			return s.caps, nil
		}
	}
	return Caps{}, err
}

// configure sets MTU and link state and returns the MTU in force.
func configure(c LinuxConfig) (mtu int, err error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("control socket: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(c.Name)
	if err != nil {
		return 0, err
	}
	if c.MTU != 0 {
		req.SetUint32(uint32(c.MTU))
		if err := unix.IoctlIfreq(s, unix.SIOCSIFMTU, req); err != nil {
			return 0, fmt.Errorf("set MTU %d: %w", c.MTU, err)
		}
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFMTU, req); err != nil {
		return 0, fmt.Errorf("read MTU: %w", err)
	}
	mtu = int(req.Uint32())
	if c.SuperFrame != 0 {
		if err := setSuperFrame(c.Name, c.SuperFrame); err != nil {
			return 0, fmt.Errorf("set the longest super-frame: %w", err)
		}
	}
	if c.LeaveDown {
		return mtu, nil
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return 0, fmt.Errorf("read link state: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return 0, fmt.Errorf("set link up: %w", err)
	}
	return mtu, nil
}

// explainOpen adds the remedy to a failed open of tunPath.
func explainOpen(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s: %w; load the tun module (modprobe tun), or give the container the device", tunPath, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w; run as root, or let this user read and write it", tunPath, err)
	}
	return fmt.Errorf("%s: %w", tunPath, err)
}

// explainAttach adds the remedy to a failed TUNSETIFF.
func explainAttach(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("attach: %w; CAP_NET_ADMIN is needed: run as root, or setcap cap_net_admin+ep on the program", err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach: %w; another process holds this TAP: end it or choose another name", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach: %w; an interface of this name exists that is no single-queue TAP, or, for several queues, no TAP with multi_queue (or the name is not legal): delete it or choose another name", err)
	}
	return fmt.Errorf("attach: %w", err)
}

// ReadBatch implements Device.
func (d *tun) ReadBatch(b *Batch) error { return d.result("read", d.reader.read(b)) }

// WriteBatch implements Device.
func (d *tun) WriteBatch(b *Batch) error { return d.result("write", d.writer.write(b)) }

// result hides whatever a closed file says behind ErrClosed.
func (d *tun) result(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case d.closed.Load():
		return ErrClosed
	case errors.Is(err, unix.EBADFD):
		return fmt.Errorf("tap: %s: the interface was deleted: %w", op, err)
	}
	return fmt.Errorf("tap: %s: %w", op, err)
}

// Caps implements Device.
func (d *tun) Caps() Caps { return d.caps }

// MTU implements Device.
func (d *tun) MTU() int { return d.mtu }

// Stats implements Counted.
func (d *tun) Stats() Stats {
	return Stats{ReadDropped: d.reader.dropped.Load(), WriteDropped: d.writer.dropped.Load()}
}

// Close implements Device. The interface goes away, unless it is persistent.
func (d *tun) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	if err := d.file.Close(); err != nil {
		return fmt.Errorf("tap: close: %w", err)
	}
	return nil
}
