package ofpath

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// echoEvery is how often an echo is sent until it comes back.
const echoEvery = 50 * time.Millisecond

// echo is a frame that goes to the switch and comes back as a packet-in: the proof
// that events of a new connection reach us, which probes live on, and that Watch,
// whose start nothing else shows, misses none from now on.
type echo struct {
	frame []byte
	back  chan struct{} // of length 1
}

func newEcho() echo {
	// EtherType 0x88b5 is for local experiments (IEEE 802); the frame never leaves
	// the switch.
	frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, make([]byte, 46)...)
	_, _ = rand.Read(frame[14:]) // never fails
	return echo{frame, make(chan struct{}, 1)}
}

// watch passes events on to f, but for the echo.
func (e echo) watch(f func(ofctl.Event)) func(ofctl.Event) {
	return func(ev ofctl.Event) {
		in, ok := ev.(ofctl.PacketIn)
		if !ok || !bytes.Equal(in.Frame, e.frame) {
			f(ev)
			return
		}
		select {
		case e.back <- struct{}{}:
		default:
		}
	}
}

// wait sends the echo until it has come back.
func (e echo) wait(ctx context.Context, sw ofctl.Switch) error {
	out := ofctl.PacketOut{Frame: e.frame, Actions: []ofctl.Action{ofctl.ToController(whole)}}
	tick := time.NewTicker(echoEvery)
	defer tick.Stop()
	for {
		if err := sw.PacketOut(ctx, out); err != nil {
			return convert("echo", err)
		}
		select {
		case <-e.back:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(errors.New("ofpath: packet-ins of the switch do not reach us"), ctx.Err())
		}
	}
}
