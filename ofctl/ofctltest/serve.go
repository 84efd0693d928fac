package ofctltest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/internal/ofp"
)

// Serve accepts OpenFlow 1.3 connections on l and serves sw on them, until ctx ends
// (nil) or l fails. It closes l and every connection, and leaves no goroutine
// behind. As with Open vSwitch's management socket, a connection gets packet-ins
// only after a SET_CONFIG with a miss_send_len other than 0. While the switch is
// stalled, a connection with an Apply under way does nothing else.
func Serve(ctx context.Context, l net.Listener, sw *Switch) error {
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	// Ended in this order: no new connection, none at all, nobody left.
	defer sessions.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("ofctltest: serve: %w", err)
		}
		s := &session{sw: sw, conn: sw.Connect(), net: conn, bundles: make(map[uint32]*bundle)}
		sessions.Go(func() { s.run(ctx) })
	}
}

// session is the switch's side of one OpenFlow connection.
type session struct {
	sw      *Switch
	conn    *Conn
	net     net.Conn
	bundles map[uint32]*bundle // by ID; of the reader alone

	mu        sync.Mutex // serialises writes
	packetIns bool       // wanted
}

// bundle is what was added so far, each with its xid.
type bundle struct {
	mods   []ofctl.Mod
	xids   []uint32
	closed bool
}

// run serves until either side closes or ctx ends.
func (s *session) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The reader is stuck in a read: closing is what ends it.
	stop := context.AfterFunc(ctx, func() { _ = s.net.Close() })
	defer stop()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer func() { _ = s.conn.Close() }()
	watching.Go(func() { s.watch(ctx, cancel) })

	if s.send(0, ofp.Hello{Bitmap: 1 << ofp.Version}) != nil {
		return
	}
	r := bufio.NewReader(s.net)
	for {
		b, err := ofp.Read(r)
		if err != nil {
			return
		}
		if err := s.message(ctx, b); err != nil {
			return
		}
	}
}

// watch writes the switch's events until the connection ends, and ends it when it
// is lost in the switch.
func (s *session) watch(ctx context.Context, cancel func()) {
	defer cancel()
	// The error is that the connection is lost, which is why it is closed now.
	_ = s.conn.Watch(ctx, func(ev ofctl.Event) {
		if _, ok := ev.(ofctl.PacketIn); ok && !s.wantsPacketIns() {
			return
		}
		if s.send(0, ev) != nil {
			cancel()
		}
	})
}

func (s *session) wantsPacketIns() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packetIns
}

func (s *session) send(xid uint32, m any) error {
	b, err := ofctl.Encode(nil, xid, m)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.net.Write(b)
	return err
}

// message serves one message. An error ends the connection.
func (s *session) message(ctx context.Context, b []byte) error {
	xid, m, err := ofctl.Decode(b)
	if err == nil {
		err = s.serve(ctx, xid, m)
	}
	return s.refuse(xid, b, err)
}

// refuse answers a refusal with an error message about request b. Any other error
// is handed on.
func (s *session) refuse(xid uint32, b []byte, err error) error {
	refused, ok := errors.AsType[*ofctl.SwitchError](err)
	if !ok {
		return err
	}
	answer := *refused
	answer.Request = b[:min(len(b), 64)]
	return s.send(xid, &answer)
}

// serve answers one request; nil, a refusal, or what ends the connection.
func (s *session) serve(ctx context.Context, xid uint32, m any) error {
	switch m := m.(type) {
	case ofp.Hello:
		if !m.Speaks(ofp.Version) {
			return errors.New("ofctltest: the controller does not speak OpenFlow 1.3")
		}
		return nil
	case ofp.EchoRequest:
		return s.send(xid, ofp.EchoReply(m))
	case ofp.EchoReply, *ofctl.SwitchError:
		return nil
	case ofp.Unknown:
		if m.Type == ofp.TypeSetAsync {
			return nil // everything is sent anyhow
		}
		return refuse(ofctl.ErrTypeBadRequest, badRequestType)
	case ofp.FeaturesRequest:
		f := s.conn.Features()
		return s.send(xid, ofp.FeaturesReply{DatapathID: f.DatapathID, Tables: f.Tables})
	case ofp.ConfigRequest:
		return s.send(xid, ofp.ConfigReply{})
	case ofp.SetConfig:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.packetIns = m.MissSendLen > 0
		return nil
	case ofp.BarrierRequest:
		return s.send(xid, ofp.BarrierReply{})
	case ofctl.FlowMod:
		return s.conn.Apply(ctx, []ofctl.Mod{m})
	case ofctl.GroupMod:
		return s.conn.Apply(ctx, []ofctl.Mod{m})
	case ofctl.MeterMod:
		return s.conn.Apply(ctx, []ofctl.Mod{m})
	case ofctl.PacketOut:
		if refused := s.sw.packetOut(m); refused != nil {
			return refused
		}
		return nil
	case ofp.BundleControl:
		return s.bundle(ctx, xid, m)
	case ofp.BundleAdd:
		return s.bundleAdd(xid, m)
	}
	return s.multipart(ctx, xid, m)
}

func (s *session) multipart(ctx context.Context, xid uint32, m any) error {
	switch m := m.(type) {
	case ofctl.FlowFilter:
		stats, err := s.conn.Flows(ctx, m)
		if err != nil {
			return err
		}
		return s.send(xid, ofp.Part[ofctl.FlowStat]{Items: stats})
	case ofp.GroupDescRequest:
		groups, err := s.conn.Groups(ctx)
		if err != nil {
			return err
		}
		return s.send(xid, ofp.Part[ofctl.Group]{Items: groups})
	case ofp.MeterConfigRequest:
		meters, err := s.conn.Meters(ctx)
		if err != nil {
			return err
		}
		return s.send(xid, ofp.Part[ofctl.Meter]{Items: meters})
	case ofp.MeterFeaturesRequest:
		return s.send(xid, meterFeatures(s.conn.Features()))
	case ofp.PortDescRequest:
		ports, err := s.conn.Ports(ctx)
		if err != nil {
			return err
		}
		return s.send(xid, ofp.Part[ofctl.Port]{Items: ports})
	}
	return refuse(ofctl.ErrTypeBadRequest, badRequestType)
}

// badRequestType is OFPBRC_BAD_TYPE.
const badRequestType = 1

// Codes of bundle errors (EXT-230), which ONF sends as an experimenter.
const (
	bundleBadID     = 2302
	bundleExists    = 2303
	bundleClosed    = 2304
	bundleBadType   = 2306
	bundleMsgFailed = 2313
)

func refuseBundle(code uint16) *ofctl.SwitchError {
	return &ofctl.SwitchError{Type: ofctl.ErrTypeExperimenter, Code: code, Experimenter: ofp.ExperimenterONF}
}

func (s *session) bundle(ctx context.Context, xid uint32, m ofp.BundleControl) error {
	b := s.bundles[m.ID]
	if b == nil && m.Type != ofp.BundleOpen {
		return refuseBundle(bundleBadID)
	}
	switch m.Type {
	case ofp.BundleOpen:
		if b != nil {
			return refuseBundle(bundleExists)
		}
		s.bundles[m.ID] = new(bundle)
	case ofp.BundleClose:
		if b.closed {
			return refuseBundle(bundleClosed)
		}
		b.closed = true
	case ofp.BundleDiscard:
		delete(s.bundles, m.ID)
	case ofp.BundleCommit:
		delete(s.bundles, m.ID)
		if err := s.commit(ctx, b); err != nil {
			return err
		}
	default:
		return refuseBundle(bundleBadType)
	}
	m.Type++ // every reply's type is its request's plus one
	return s.send(xid, m)
}

// commit executes b. Like Open vSwitch it answers a refused modification twice: for
// the message that was added, and for the commit.
func (s *session) commit(ctx context.Context, b *bundle) error {
	err := s.conn.Apply(ctx, b.mods)
	if err == nil {
		return nil
	}
	at := 0
	if me, ok := errors.AsType[*modError](err); ok {
		at = me.index
	}
	refused, ok := errors.AsType[*ofctl.SwitchError](err)
	if !ok || at >= len(b.xids) {
		return err
	}
	request, err := ofctl.Encode(nil, b.xids[at], b.mods[at])
	if err != nil {
		return err
	}
	if err := s.refuse(b.xids[at], request, refused); err != nil {
		return err
	}
	return refuseBundle(bundleMsgFailed)
}

// bundleAdd keeps a modification for the commit. What is wrong by itself is refused
// now, and the bundle lives on without it, as in Open vSwitch.
func (s *session) bundleAdd(xid uint32, m ofp.BundleAdd) error {
	b := s.bundles[m.ID]
	mod, ok := m.Mod.(ofctl.Mod)
	switch {
	case b == nil:
		b = new(bundle) // added to an ID that is not open: opens it (EXT-230, section 4)
		s.bundles[m.ID] = b
	case b.closed:
		return refuseBundle(bundleClosed)
	}
	if !ok {
		return refuseBundle(bundleBadType)
	}
	if err := s.sw.checkEarly(mod); err != nil {
		return err
	}
	b.mods, b.xids = append(b.mods, mod), append(b.xids, xid)
	return nil
}
