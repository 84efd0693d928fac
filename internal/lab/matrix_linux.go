package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
)

// matrixWait bounds how long a flow may take to be bypassed before it is measured; the
// path of its family may not be proven yet.
const matrixWait = 10 * time.Second

// Matrix measures each kind of traffic natively, on the overlay and bypassed, between
// the first containers of the first two hosts. A cell without its proof is no error but a
// Fail. The nodes must run.
func (l *Lab) Matrix(ctx context.Context, cfg MatrixConfig) (Matrix, error) {
	cfg = cfg.normal()
	var out Matrix
	err := l.withServers(ctx, []Mode{Native, Overlay, Bypass}, func() error {
		for _, k := range Kinds() {
			row, err := l.matrixRow(ctx, k, cfg)
			if err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
			out = append(out, row)
		}
		return nil
	})
	return out, err
}

func (l *Lab) matrixRow(ctx context.Context, k Kind, cfg MatrixConfig) (MatrixRow, error) {
	var rounds [modes][]Cell
	for round := 1; round <= cfg.Rounds; round++ {
		for m := range modes {
			var c Cell
			err := l.inMode(ctx, m, func() (err error) {
				c, err = l.cell(ctx, k, m, cfg)
				return err
			})
			if err != nil {
				return MatrixRow{}, fmt.Errorf("round %d, %s: %w", round, m, err)
			}
			rounds[m] = append(rounds[m], c)
			if cfg.Progress != nil {
				cfg.Progress(round, k, m, c)
			}
		}
	}
	return newRow(l.cfg.Datapath, k, rounds), nil
}

// cell measures once.
func (l *Lab) cell(ctx context.Context, k Kind, m Mode, cfg MatrixConfig) (Cell, error) {
	if k.UDP {
		return l.cellUDP(ctx, k, m, cfg)
	}
	return l.cellTCP(ctx, k, m, cfg)
}

// cellTCP runs iperf3. Before a bypass another connection shows that one is to be had:
// iperf3's takes it from its first segment on.
func (l *Lab) cellTCP(ctx context.Context, k Kind, m Mode, cfg MatrixConfig) (c Cell, err error) {
	if m == Bypass {
		if c.Fail, err = l.isToBeHad(ctx, k); err != nil || c.Fail != "" {
			return c, err
		}
	}
	p := l.pair(k, m)
	c.Proof, c.Fail, err = l.prove(ctx, m, p, func() (moved uint64, err error) {
		moved, c.Mbps, err = l.iperf(ctx, p, cfg.Duration)
		return moved, err
	})
	return c, err
}

// isToBeHad makes one TCP connection and waits until it is bypassed, or says why it is not.
func (l *Lab) isToBeHad(ctx context.Context, k Kind) (fail string, err error) {
	s, err := l.startStream(k, Bypass.streamPort())
	if err != nil {
		return err.Error(), context.Cause(ctx)
	}
	defer s.abort()
	limit, cancel := context.WithTimeout(ctx, matrixWait)
	defer cancel()
	if _, err = l.bypassedSince(limit, s, time.Time{}); err == nil {
		_, _, err = s.finish(finishTime)
	}
	if err != nil {
		fail = err.Error()
	}
	return fail, context.Cause(ctx)
}

// cellUDP runs a conversation, at first slowly: a flow of UDP is bypassed when it is worth it.
func (l *Lab) cellUDP(ctx context.Context, k Kind, m Mode, cfg MatrixConfig) (c Cell, err error) {
	p := l.pair(k, m)
	d, err := l.startDatagrams(k, p.port, datagramSize)
	if err != nil {
		return c, err
	}
	defer d.abort()
	p.from = d.from().Port()
	if m == Bypass {
		if c.Fail = l.waitFlow(ctx, d.from()); c.Fail != "" {
			return c, context.Cause(ctx)
		}
	}
	c.Proof, c.Fail, err = l.prove(ctx, m, p, func() (moved uint64, err error) {
		t, err := d.measure(ctx, cfg.UDPRate, cfg.Duration)
		moved = uint64(t[0].Arrived) * datagramSize
		c.Mbps = float64(moved) * 8 / 1e6 / cfg.Duration.Seconds()
		c.Lost = tally{Sent: t[0].Sent + t[1].Sent, Arrived: t[0].Arrived + t[1].Arrived}.lost()
		return moved, err
	})
	return c, err
}

// waitFlow waits until both nodes say that the flow from client is bypassed; "" = it is.
func (l *Lab) waitFlow(ctx context.Context, client netip.AddrPort) (why string) {
	ctx, cancel := context.WithTimeout(ctx, matrixWait)
	defer cancel()
	_ = poll(ctx, 20*time.Millisecond, func() (bool, error) { // why says what is wrong
		state, _, reason := l.stateOf(ctx, client.String())
		switch {
		case ctx.Err() != nil && why != "": // an answer that was cut off says nothing
		case state == nodeapi.FlowBypassed:
			why = ""
			return true, nil
		default:
			why = strings.TrimPrefix(state+": "+reason, ": ")
		}
		return false, nil
	})
	if why != "" {
		why = "not bypassed: " + why
	}
	return why
}
