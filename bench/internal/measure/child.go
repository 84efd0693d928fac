//go:build linux

package measure

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"time"
)

// childMark is the first argument of this program when it is an end of a test, inside a
// namespace:
//
//	sink LISTEN              says "ready", counts datagrams until its input ends, says how many
//	flood FROM TO RATE SIZE  sends datagrams for floodTime (RATE 0 = as many as go), says how many
//	pong LISTEN              says "ready", answers one connection
//	ping FROM TO             says the median and the 99th percentile of round trips, in µs
const childMark = "bench-child"

const (
	smallDatagram = 64
	bulkDatagram  = 1200 // QUIC's least (RFC 9000)
	maxDatagram   = 9000
	messageBytes  = 64
	warmUp        = 500
	pings         = 5000
	// pingTime bounds warm-up and measurement each, where round trips are long.
	pingTime = 3 * time.Second
)

// Child is what a program that calls Run does first: its tests start it again, with arguments
// that say which end of one it is. false: it is none.
func Child(args []string, in io.Reader, out io.Writer) (is bool, err error) {
	if len(args) < 2 || args[1] != childMark {
		return false, nil
	}
	return true, child(args[2:], in, out)
}

func child(args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "sink":
		return sink(args[1], in, out)
	case len(args) == 5 && args[0] == "flood":
		return flood(args[1], args[2], args[3], args[4], out)
	case len(args) == 2 && args[0] == "pong":
		return pong(args[1], out)
	case len(args) == 3 && args[0] == "ping":
		return ping(args[1], args[2], out)
	}
	return fmt.Errorf("no such child: %q", args)
}

func sink(listen string, in io.Reader, out io.Writer) error {
	at, err := net.ResolveUDPAddr("udp4", listen)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp4", at)
	if err != nil {
		return err
	}
	_ = c.SetReadBuffer(8 << 20) // as much as the kernel gives
	fmt.Fprintln(out, "ready")
	go func() {
		_, _ = io.Copy(io.Discard, in)
		time.Sleep(200 * time.Millisecond) // for what is under way
		_ = c.Close()
	}()
	n, b := 0, make([]byte, 2048)
	for {
		if _, _, err := c.ReadFromUDPAddrPort(b); err != nil {
			_, err = fmt.Fprintln(out, n)
			return err
		}
		n++
	}
}

func flood(from, to, rate, size string, out io.Writer) error {
	perSecond, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	bytes, err := strconv.Atoi(size)
	if err != nil || bytes < 1 || bytes > maxDatagram {
		return fmt.Errorf("datagrams of %q bytes", size)
	}
	c, err := net.Dial("udp4", to)
	if err != nil {
		return err
	}
	defer c.Close()
	n, b, start := 0, make([]byte, bytes), time.Now()
	for {
		passed := time.Since(start)
		if passed >= floodTime {
			break
		}
		burst := 32
		if perSecond > 0 {
			if burst = int(passed.Seconds()*float64(perSecond)) - n; burst <= 0 {
				if bytes > smallDatagram {
					time.Sleep(time.Millisecond / 2) // its CPU counts; small ones need a finer clock
				}
				continue
			}
		}
		for range min(burst, 32) {
			if _, err := c.Write(b); err == nil { // else a queue is full: it did not go
				n++
			}
		}
	}
	_, err = fmt.Fprintln(out, n)
	return err
}

func pong(listen string, out io.Writer) error {
	ln, err := net.Listen("tcp4", listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	b := make([]byte, messageBytes)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return nil
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

func ping(from, to string, out io.Writer) error {
	local, err := net.ResolveTCPAddr("tcp4", from)
	if err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: local, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp4", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	b, took := make([]byte, messageBytes), make([]time.Duration, 0, pings)
	warm, begun := true, time.Now()
	for i := 0; len(took) < pings; i++ {
		start := time.Now()
		if warm && (i == warmUp || start.Sub(begun) > pingTime/3) {
			warm, begun = false, start
		} else if start.Sub(begun) > pingTime {
			break
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if !warm {
			took = append(took, time.Since(start))
		}
	}
	if len(took) == 0 {
		return errors.New("no round trip in time")
	}
	slices.Sort(took)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	_, err = fmt.Fprintln(out, micros(took[len(took)/2]), micros(took[len(took)*99/100]))
	return err
}

// dialogue is a child that says "ready", and something more when its input ends.
type dialogue struct {
	proc *proc
	in   *os.File
	out  *bufio.Reader
	ends []*os.File
}

// talk starts a child at a side and waits until it is ready.
func (v *visit) talk(s side, args ...string) (*dialogue, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inR.Close(), inW.Close())
	}
	d := &dialogue{in: inW, out: bufio.NewReader(outR), ends: []*os.File{inW, outR}}
	d.proc, err = v.wire.start(s, nil, inR, outW, append([]string{v.self(), childMark}, args...)...)
	_, _ = inR.Close(), outW.Close() // the child's
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	go func() {
		<-d.proc.exited
		_ = inW.Close()
	}()
	if err := outR.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if line, err := d.out.ReadString('\n'); err != nil || line != "ready\n" {
		return nil, fmt.Errorf("%s said %q: %w", args[0], line, errors.Join(err, d.close()))
	}
	return d, nil
}

// finish ends the child's input and returns what it says.
func (d *dialogue) finish() (string, error) {
	_ = d.in.Close()
	line, err := d.out.ReadString('\n')
	return line, errors.Join(err, d.close())
}

func (d *dialogue) close() error {
	for _, f := range d.ends {
		_ = f.Close() // one end may be closed already
	}
	return nil
}
