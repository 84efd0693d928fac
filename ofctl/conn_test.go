package ofctl

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// scripted is the switch's end of a pipe. It answers as a good switch would, unless
// script, called first, says that it has dealt with the message.
type scripted struct {
	tb     testing.TB
	nc     net.Conn
	mu     sync.Mutex
	silent bool
	script func(s *scripted, xid uint32, m Message) (done bool)
}

func (s *scripted) setSilent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = true
}

func (s *scripted) send(xid uint32, m Message) {
	b, err := Encode(nil, xid, m)
	require.NoError(s.tb, err)
	_, _ = s.nc.Write(b)
}

func (s *scripted) serve() {
	defer s.nc.Close()
	br := bufio.NewReader(s.nc)
	for {
		b, err := ofp.Read(br)
		if err != nil {
			return
		}
		xid, m, err := Decode(b)
		s.mu.Lock()
		silent := s.silent
		s.mu.Unlock()
		if silent || err != nil || s.script != nil && s.script(s, xid, m) {
			continue
		}
		switch m := m.(type) {
		case Hello:
			s.send(xid, Hello{Version: 4, Bitmap: 0x10})
		case EchoRequest:
			s.send(xid, EchoReply(m))
		case FeaturesRequest:
			s.send(xid, FeaturesReply{DatapathID: 7, Tables: 9})
		case BarrierRequest:
			s.send(xid, BarrierReply{})
		case BundleControl:
			m.Type++
			s.send(xid, m)
		case MeterFeaturesRequest:
			s.send(xid, MeterFeatures{MaxMeters: 9, Bands: 1 << bandDrop, Capabilities: meterPackets, MaxBands: 1})
		case FlowFilter:
			s.send(xid, Part[FlowStat]{Items: []FlowStat{{Packets: 1}}, More: true})
			s.send(xid, Part[FlowStat]{Items: []FlowStat{{Packets: 2}}})
		}
	}
}

// newScripted connects to a scripted switch. To be called within a synctest bubble.
func newScripted(tb testing.TB, cfg Config, script func(*scripted, uint32, Message) bool) (*Conn, *scripted, error) {
	here, there := net.Pipe()
	s := &scripted{tb: tb, nc: there, script: script}
	go s.serve()
	c, err := NewConn(tb.Context(), here, cfg)
	return c, s, err
}

func TestHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, err := newScripted(t, Config{}, nil)
		require.NoError(t, err)
		require.Equal(t, Features{DatapathID: 7, Tables: 9,
			Capabilities: CapBundle | CapFragMatch | CapPortMask | CapCheckPktLarger | CapTTLMatch | CapTether | CapMeter}, c.Features())
		stats, err := c.Flows(t.Context(), AllFlows)
		require.NoError(t, err)
		require.Len(t, stats, 2, "both parts")
		<-time.After(time.Hour)
		_, err = c.Flows(t.Context(), AllFlows)
		require.NoError(t, err, "echoes keep it")
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
		_, err = c.Flows(t.Context(), AllFlows)
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, c.Watch(t.Context(), nil), ErrClosed)
		require.ErrorIs(t, c.Apply(t.Context(), []Mod{FlowMod{}}), ErrClosed)
		require.ErrorIs(t, c.PacketOut(t.Context(), PacketOut{}), ErrClosed)
	})
}

func TestHandshakeFails(t *testing.T) {
	for name, row := range map[string]struct {
		script func(*scripted, uint32, Message) bool
		want   error
	}{
		"other version": {func(s *scripted, xid uint32, m Message) bool {
			s.send(xid, Hello{Bitmap: 0x02})
			return true
		}, ErrNotSupported},
		"silent":   {func(*scripted, uint32, Message) bool { return true }, context.DeadlineExceeded},
		"hangs up": {func(s *scripted, _ uint32, _ Message) bool { s.nc.Close(); return true }, io.EOF},
		"no OpenFlow": {func(s *scripted, _ uint32, _ Message) bool {
			_, _ = s.nc.Write([]byte("SSH-2.0-OpenSSH\r\n"))
			return true
		}, ofp.ErrFrame},
		"stuck later": {func(_ *scripted, _ uint32, m Message) bool { _, hello := m.(Hello); return !hello }, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, _, err := newScripted(t, Config{}, row.script)
			require.ErrorIs(t, err, row.want, name)
		})
	}
}

func TestSwitchWithoutExtensions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, err := newScripted(t, Config{}, func(s *scripted, xid uint32, m Message) bool {
			switch m.(type) {
			case BundleControl, BundleAdd, MeterFeaturesRequest:
				s.send(xid, &SwitchError{Type: ErrTypeBadRequest, Code: 3})
				return true
			}
			return false
		})
		require.NoError(t, err)
		defer c.Close()
		require.Zero(t, c.Features().Capabilities)
		require.NoError(t, c.Apply(t.Context(), []Mod{FlowMod{}}), "one is atomic without a bundle")
		require.ErrorIs(t, c.Apply(t.Context(), []Mod{FlowMod{}, FlowMod{}}), ErrNotSupported)
		require.NoError(t, c.Apply(t.Context(), nil))
	})
}

// A switch that falls silent is given up, and what was sent is unconfirmed.
func TestSilentSwitchIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, err := newScripted(t, Config{KeepAlive: time.Second}, nil)
		require.NoError(t, err)
		defer c.Close()
		s.setSilent()
		start := time.Now()
		results := make(chan error, 4)
		go func() { results <- c.Watch(t.Context(), func(Event) {}) }()
		go func() { _, err := c.Flows(t.Context(), AllFlows); results <- err }()
		go func() { results <- c.Apply(t.Context(), []Mod{FlowMod{}}) }()
		go func() { results <- c.Apply(t.Context(), []Mod{FlowMod{}, FlowMod{}}) }()
		var closed, unconfirmed int
		for range 4 {
			err := <-results
			if errors.Is(err, ErrClosed) {
				closed++
			}
			if errors.Is(err, ErrUnconfirmed) {
				unconfirmed++
			}
		}
		require.Equal(t, 3, closed, "watch, dump, and the bundle that was never committed")
		require.Equal(t, 1, unconfirmed, "the flow-mod")
		require.InDelta(t, 3, time.Since(start).Seconds(), 1)
	})
}

func TestApplyOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var adds, discards int
		var refuse *SwitchError
		var mute any // a type that is not answered
		c, _, err := newScripted(t, Config{}, func(s *scripted, xid uint32, m Message) bool {
			switch m := m.(type) {
			case BundleAdd:
				adds++
				if refuse != nil && adds == 2 {
					s.send(xid, refuse)
				}
			case BundleControl:
				if m.Type == BundleDiscard {
					discards++
				}
				return mute != nil && m.Type == BundleCommit
			case BarrierRequest:
				return mute != nil
			}
			return false
		})
		require.NoError(t, err)
		defer c.Close()
		two := []Mod{FlowMod{}, GroupMod{}}
		synctest.Wait()
		adds, discards = 0, 0
		require.NoError(t, c.Apply(t.Context(), two))
		synctest.Wait()
		require.Zero(t, discards)
		adds, refuse = 0, &SwitchError{Type: ErrTypeBadAction, Code: 4, Request: []byte{}}
		err = c.Apply(t.Context(), two)
		require.ErrorContains(t, err, "step 1 (group add group_id=0,type=all): ofctl: switch refused: OFPET_BAD_ACTION: OFPBAC_BAD_OUT_PORT")
		synctest.Wait()
		require.Equal(t, 1, discards)
		synctest.Wait()
		refuse, mute = nil, true
		for _, mods := range [][]Mod{two, two[:1]} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err = c.Apply(ctx, mods)
			cancel()
			require.ErrorIs(t, err, ErrUnconfirmed)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, ErrClosed)
		}
		synctest.Wait()
		mute = nil
		require.NoError(t, c.Apply(t.Context(), two), "the connection lives")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, c.PacketOut(ctx, PacketOut{}), context.Canceled)
		err = c.Apply(ctx, two[:1])
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, ErrUnconfirmed, "nothing was sent")
		err = c.Apply(t.Context(), []Mod{FlowMod{Flow: Flow{Match: Match{TCPDst(1)}}}})
		require.ErrorContains(t, err, "needs nw_proto=0x6")
		require.NotErrorIs(t, err, ErrUnconfirmed)
	})
}

// A watcher that does not keep up loses packet-ins, counted, and nothing else.
func TestSlowWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, err := newScripted(t, Config{PacketIns: 10}, nil)
		require.NoError(t, err)
		block := make(chan struct{})
		var packetIns, removed, ports, refused int
		done := make(chan error, 1)
		go func() {
			done <- c.Watch(t.Context(), func(e Event) {
				<-block
				switch e.(type) {
				case PacketIn:
					packetIns++
				case FlowRemoved:
					removed++
				case PortStatus:
					ports++
				case Refused:
					refused++
				}
			})
		}()
		synctest.Wait()
		s.send(0, PortStatus{})
		synctest.Wait() // the watcher is in its function now, with nothing queued
		for range 100 {
			s.send(0, PacketIn{InPort: 1})
			s.send(0, FlowRemoved{})
			s.send(0, PortStatus{})
		}
		s.send(0xffffff, &SwitchError{Type: 1})
		synctest.Wait()
		close(block)
		synctest.Wait()
		s.nc.Close()
		require.ErrorIs(t, <-done, ErrClosed)
		require.Equal(t, []int{10, 100, 101, 1}, []int{packetIns, removed, ports, refused})
		require.EqualValues(t, 90, c.DroppedPacketIns())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, c.Watch(ctx, nil), ErrClosed)
		require.NoError(t, c.Close())
	})
}

func TestWatchEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, err := newScripted(t, Config{}, nil)
		require.NoError(t, err)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		go func() {
			synctest.Wait()
			s.send(0, PacketIn{InPort: 1})
		}()
		require.NoError(t, c.Watch(ctx, func(Event) { n++; cancel() }))
		require.Equal(t, 1, n)
		synctest.Wait()
		require.Empty(t, c.watchers)
	})
}

func TestUnreadableAnswersAndStrayMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := func(s *scripted, xid uint32, typ uint8, body ...byte) {
			b := append(make([]byte, ofp.HeaderLen), body...)
			putHeader(b, typ, xid)
			_, _ = s.nc.Write(b)
		}
		var echoed []byte
		c, s, err := newScripted(t, Config{}, func(s *scripted, xid uint32, m Message) bool {
			switch m := m.(type) {
			case GroupDescRequest:
				raw(s, xid, ofp.TypeMultipartReply, 0, ofp.MultipartGroupDesc, 0, 0, 0, 0, 0, 0, 0, 99)
				return true
			case PortDescRequest:
				s.send(xid, BarrierReply{})
				return true
			case EchoReply:
				echoed = m.Data
			}
			return false
		})
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Groups(t.Context())
		require.ErrorContains(t, err, "decode message")
		_, err = c.Ports(t.Context())
		require.ErrorContains(t, err, "answered with ofctl.BarrierReply")
		raw(s, 1, ofp.TypePacketIn, 1)           // too short
		raw(s, 2, 99, 1, 2, 3)                   // unknown
		raw(s, 3, ofp.TypeExperimenter, 0, 0, 0) // too short for an experimenter
		s.send(4, BarrierReply{})                // nobody asked
		s.send(5, EchoRequest{Data: []byte("ping")})
		synctest.Wait()
		require.Equal(t, "ping", string(echoed))
		_, err = c.Flows(t.Context(), AllFlows)
		require.NoError(t, err, "the connection is intact")
	})
}

func TestConcurrentCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, err := newScripted(t, Config{}, nil)
		require.NoError(t, err)
		defer c.Close()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if err := c.Apply(t.Context(), []Mod{FlowMod{}, FlowMod{}, FlowMod{}}[:1+i%3]); err != nil {
					t.Error(err)
				}
				if stats, err := c.Flows(t.Context(), AllFlows); err != nil || len(stats) != 2 {
					t.Error(stats, err)
				}
			})
		}
		wg.Wait()
		require.Empty(t, c.calls)
	})
}
