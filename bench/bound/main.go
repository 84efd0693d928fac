//go:build linux

// Bound is what an overlay could be at best here, and no overlay: a TAP's super-frames, whole,
// under AES-128-GCM with a fixed key, cut into UDP datagrams by the kernel and joined by the
// receiver's. One datagram that is lost loses 64 KB, and nothing is safe. With -datagrams each
// datagram is sealed by itself, as an overlay has to that loses what was lost and no more. It is for
// bench/run.
package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Sizes, in bytes.
const (
	vnetHeader = 10
	datagram   = 1452 // fits 1,500 with IPv4 and UDP
	lead       = 16   // of a record: its length, its number
	mostBytes  = 1 << 16
)

func main() {
	dev := flag.String("dev", "", "TAP device that it makes")
	local := flag.String("local", "", "UDP address, IP:PORT")
	remote := flag.String("remote", "", "the other end's")
	datagrams := flag.Bool("datagrams", false, "seal each datagram, not each frame")
	flag.Parse()
	if err := run(*dev, *local, *remote, *datagrams); err != nil {
		fmt.Fprintln(os.Stderr, "bound:", err)
		os.Exit(1)
	}
}

func run(dev, local, remote string, datagrams bool) error {
	tap, err := openTAP(dev)
	if err != nil {
		return err
	}
	udp, err := openUDP(local, remote)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	most := 2 * mostBytes
	if datagrams {
		most = datagram - lead - aead.Overhead()
	}
	failed := make(chan error, 2)
	go func() { failed <- send(tap, udp, &sealer{aead: aead, most: most}) }()
	go func() { failed <- receive(tap, udp, &opener{aead: aead, most: most}) }()
	return <-failed
}

func openTAP(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return 0, fmt.Errorf("TUNSETIFF: %w", err)
	}
	const offloads = 0x01 | 0x02 | 0x04 | 0x20 | 0x40 // CSUM, TSO4, TSO6, USO4, USO6
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads) != nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0x07) // before Linux 6.2 there is no USO
	}
	return fd, err
}

func openUDP(local, remote string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	address := func(s string) *unix.SockaddrInet4 {
		a, e := net.ResolveUDPAddr("udp4", s)
		if e != nil {
			err = errors.Join(err, e)
			return &unix.SockaddrInet4{}
		}
		return &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}
	}
	l, r := address(local), address(remote)
	return fd, errors.Join(err,
		unix.Bind(fd, l), unix.Connect(fd, r),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20),
		unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, datagram),
		unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1))
}

// sealer makes records of a frame: each has so many bytes of it at most.
type sealer struct {
	aead  cipher.AEAD
	most  int
	next  uint64
	nonce [12]byte
}

// seal appends them to out. A record begins with how much of the frame is left, and its number.
func (s *sealer) seal(out, frame []byte) []byte {
	for len(frame) > 0 {
		s.next++
		binary.BigEndian.PutUint64(s.nonce[4:], s.next)
		out = binary.BigEndian.AppendUint64(out, uint64(len(frame)))
		out = binary.BigEndian.AppendUint64(out, s.next)
		piece := frame[:min(len(frame), s.most)]
		out = s.aead.Seal(out, s.nonce[:], piece, nil)
		frame = frame[len(piece):]
	}
	return out
}

// send seals each frame of the TAP into one send, of as many datagrams as it takes. A TAP's
// super-frame may be longer than the kernel sends at once: it goes as two.
func send(tap, udp int, s *sealer) error {
	frame, out := make([]byte, 2*mostBytes), make([]byte, 0, 2*mostBytes)
	const most = 44 * datagram
	for {
		size, err := unix.Read(tap, frame)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the TAP: %w", err)
		}
		for records := s.seal(out, frame[:size]); len(records) > 0; {
			piece := min(len(records), most)
			_, err := unix.Write(udp, records[:piece])
			if err != nil && !errors.Is(err, unix.ECONNREFUSED) { // the other end is not there yet
				return fmt.Errorf("send: %w", err)
			}
			records = records[piece:]
		}
	}
}

// opener puts records together again.
type opener struct {
	aead  cipher.AEAD
	most  int
	nonce [12]byte
	in    []byte // what was received and not opened
	frame []byte // what was opened of a frame
}

// open returns the next whole frame, good until the next call; nil: more must be received. After
// something was lost it begins anew.
func (o *opener) open() []byte {
	for len(o.in) >= lead {
		left := binary.BigEndian.Uint64(o.in)
		if left > 2*mostBytes || len(o.frame) == 0 && left < vnetHeader {
			break
		}
		end := lead + min(int(left), o.most) + o.aead.Overhead()
		if len(o.in) < end {
			return nil
		}
		copy(o.nonce[4:], o.in[8:lead])
		frame, err := o.aead.Open(o.frame, o.nonce[:], o.in[lead:end], nil)
		if err != nil {
			break
		}
		o.in, o.frame = o.in[end:], frame
		if int(left) <= o.most {
			o.frame = frame[:0]
			return frame
		}
	}
	if len(o.in) >= lead {
		o.in, o.frame = nil, o.frame[:0]
	}
	return nil
}

// receive puts records together and gives frames to the TAP.
func receive(tap, udp int, o *opener) error {
	in := make([]byte, 0, 4*mostBytes)
	o.frame = make([]byte, 0, 2*mostBytes)
	for {
		in = append(in[:0], o.in...)
		size, err := unix.Read(udp, in[len(in):cap(in)])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		o.in = in[:len(in)+size]
		for frame := o.open(); frame != nil; frame = o.open() {
			if _, err := unix.Write(tap, frame); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIO) { // EIO: it is down
				return fmt.Errorf("write the TAP: %w", err)
			}
		}
	}
}
