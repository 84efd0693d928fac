//go:build linux

// Bound is what an overlay could be at best here, and no overlay: a TAP's super-frames, whole,
// under AES-128-GCM with a fixed key, cut into UDP datagrams by the kernel and joined by the
// receiver's. One datagram that is lost loses 64 KB, and nothing is safe. It is for bench/run.
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
	flag.Parse()
	if err := run(*dev, *local, *remote); err != nil {
		fmt.Fprintln(os.Stderr, "bound:", err)
		os.Exit(1)
	}
}

func run(dev, local, remote string) error {
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
	failed := make(chan error, 2)
	go func() { failed <- send(tap, udp, aead) }()
	go func() { failed <- receive(tap, udp, aead) }()
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

// send seals each frame of the TAP into one send, of as many datagrams as it takes. A TAP's
// super-frame may be longer than the kernel sends at once: it goes as two.
func send(tap, udp int, aead cipher.AEAD) error {
	frame, out := make([]byte, 2*mostBytes), make([]byte, 2*mostBytes)
	const most = 44 * datagram
	var nonce [12]byte
	for n := uint64(1); ; n++ {
		size, err := unix.Read(tap, frame)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the TAP: %w", err)
		}
		binary.BigEndian.PutUint64(nonce[4:], n)
		binary.BigEndian.PutUint64(out, uint64(size+aead.Overhead()))
		binary.BigEndian.PutUint64(out[8:], n)
		record := aead.Seal(out[:lead], nonce[:], frame[:size], nil)
		for len(record) > 0 {
			piece := min(len(record), most)
			_, err := unix.Write(udp, record[:piece])
			if err != nil && !errors.Is(err, unix.ECONNREFUSED) { // the other end is not there yet
				return fmt.Errorf("send: %w", err)
			}
			record = record[piece:]
		}
	}
}

// receive puts records together and gives frames to the TAP.
func receive(tap, udp int, aead cipher.AEAD) error {
	in, record := make([]byte, 2*mostBytes), make([]byte, 0, 4*mostBytes)
	var nonce [12]byte
	for {
		size, err := unix.Read(udp, in)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		record = append(record, in[:size]...)
		for len(record) >= lead {
			length := binary.BigEndian.Uint64(record)
			if length > 2*mostBytes || length < uint64(vnetHeader+aead.Overhead()) {
				record = record[:0] // something was lost: begin anew
				break
			}
			end := lead + int(length)
			if len(record) < end {
				break
			}
			copy(nonce[4:], record[8:lead])
			frame, err := aead.Open(record[lead:lead], nonce[:], record[lead:end], nil)
			if err != nil {
				record = record[:0]
				break
			}
			if _, err := unix.Write(tap, frame); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIO) { // EIO: it is down
				return fmt.Errorf("write the TAP: %w", err)
			}
			record = append(record[:0], record[end:]...)
		}
	}
}
