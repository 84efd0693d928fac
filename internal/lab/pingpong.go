package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// RTT is the result of a ping-pong: half of the round trips took no longer than
// P50, 99 % no longer than P99.
type RTT struct {
	P50Micros float64 `json:"p50_us"`
	P99Micros float64 `json:"p99_us"`
}

const (
	pingBytes   = 64
	pingWarmup  = 200
	pingCount   = 3000
	pingTimeout = 20 * time.Second // of the whole exchange
	childMark   = "lab-pingpong"
)

// Child runs this process as one end of a ping-pong if args say so: the lab starts
// its own program again inside containers. A program that measures calls it first
// thing with os.Args[1:], and ends when it returns true.
func Child(args []string, in io.Reader, out io.Writer) (bool, error) {
	if len(args) != 3 || args[0] != childMark {
		return false, nil
	}
	if args[1] == "serve" {
		return true, pongServe(args[2], in, out)
	}
	return true, ping(args[2], in, out)
}

// pongServe echoes until in ends, which it does with the lab.
func pongServe(addr string, in io.Reader, out io.Writer) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = ln.Close()
	}()
	fmt.Fprintln(out, "ready", ln.Addr())
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go pong(c)
	}
}

func pong(c net.Conn) {
	defer c.Close()
	var b [pingBytes]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return
		}
		if _, err := c.Write(b[:]); err != nil {
			return
		}
	}
}

// ping warms up, says "ready" with its address, waits for a line, measures, and
// prints an RTT as JSON.
func ping(addr string, in io.Reader, out io.Writer) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(pingTimeout)); err != nil {
		return err
	}
	if _, err := exchange(c, pingWarmup); err != nil {
		return err
	}
	fmt.Fprintln(out, "ready", c.LocalAddr())
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return err
	}
	took, err := exchange(c, pingCount)
	if err != nil {
		return err
	}
	slices.Sort(took)
	return json.NewEncoder(out).Encode(RTT{micros(took[len(took)/2]), micros(took[len(took)*99/100])})
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func exchange(c net.Conn, n int) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	var b [pingBytes]byte
	for i := range took {
		start := time.Now()
		if _, err := c.Write(b[:]); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return nil, err
		}
		took[i] = time.Since(start)
	}
	return took, nil
}
