package ofctltest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
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
		s := &session{sw: sw, conn: sw.Connect(), net: conn, bundles: make(map[uint32]*bundle), now: ofctl.RoleEqual, async: defaultAsync()}
		sessions.Go(func() { s.run(ctx) })
	}
}

// session is the switch's side of one OpenFlow connection.
type session struct {
	sw      *Switch
	conn    *Conn
	net     net.Conn
	bundles map[uint32]*bundle // by ID; of the reader alone
	now     ofctl.Role         // Switch.mu guards it

	mu        sync.Mutex // serialises writes
	config    ofctl.ConfigReply
	packetIns bool // wanted
	async     ofctl.SetAsync
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
	defer s.leaves()
	watching.Go(func() { s.watch(ctx, cancel) })

	if s.send(0, ofctl.Hello{Bitmap: 1 << ofp.Version}) != nil {
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
		if s.wants(ev) && s.send(0, ev) != nil {
			cancel()
		}
	})
}

func (s *session) send(xid uint32, m ofctl.Message) error {
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
func (s *session) serve(ctx context.Context, xid uint32, m ofctl.Message) error {
	switch m := m.(type) {
	case ofctl.Hello:
		if !m.Speaks(ofp.Version) {
			return errors.New("ofctltest: the controller does not speak OpenFlow 1.3")
		}
		return nil
	case ofctl.EchoRequest:
		return s.send(xid, ofctl.EchoReply(m))
	case ofctl.EchoReply, *ofctl.SwitchError:
		return nil
	case ofctl.FeaturesRequest:
		f := s.conn.Features()
		return s.send(xid, ofctl.FeaturesReply{DatapathID: f.DatapathID, Tables: f.Tables})
	case ofctl.ConfigRequest, ofctl.SetConfig, ofctl.AsyncRequest, ofctl.SetAsync:
		return s.settings(xid, m)
	case ofctl.BarrierRequest:
		return s.send(xid, ofctl.BarrierReply{})
	case ofctl.RoleRequest:
		return s.role(xid, m)
	case ofctl.FlowMod, ofctl.GroupMod, ofctl.MeterMod, ofctl.PacketOut, ofctl.PortMod, ofctl.TableMod:
		return s.change(ctx, m)
	case ofctl.BundleControl:
		return s.bundle(ctx, xid, m)
	case ofctl.BundleAdd:
		return s.bundleAdd(xid, m)
	}
	return s.multipart(ctx, xid, m)
}

// settings answers what is about the connection alone.
func (s *session) settings(xid uint32, m ofctl.Message) error {
	switch m := m.(type) {
	case ofctl.SetConfig:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.config, s.packetIns = ofctl.ConfigReply(m), m.MissSendLen > 0
	case ofctl.SetAsync:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.async = m
	case ofctl.ConfigRequest:
		s.mu.Lock()
		reply := s.config
		s.mu.Unlock()
		return s.send(xid, reply)
	case ofctl.AsyncRequest:
		s.mu.Lock()
		reply := ofctl.AsyncReply(s.async)
		s.mu.Unlock()
		return s.send(xid, reply)
	}
	return nil
}

// change executes what a slave may not.
func (s *session) change(ctx context.Context, m ofctl.Message) error {
	if err := s.mayChange(); err != nil {
		return err
	}
	switch m := m.(type) {
	case ofctl.Mod:
		return s.conn.Apply(ctx, []ofctl.Mod{m})
	case ofctl.PacketOut:
		if refused := s.sw.packetOut(m); refused != nil {
			return refused
		}
	case ofctl.PortMod:
		return s.sw.configure(m, s.conn)
	}
	return nil // a table-mod, which says nothing in OpenFlow 1.3
}

func (s *session) multipart(ctx context.Context, xid uint32, m ofctl.Message) error {
	switch m := m.(type) {
	case ofctl.FlowFilter:
		stats, err := s.conn.Flows(ctx, m)
		if err != nil {
			return err
		}
		return s.send(xid, ofctl.Part[ofctl.FlowStat]{Items: stats})
	case ofctl.AggregateRequest:
		sum, err := s.conn.Aggregate(ctx, m.FlowFilter)
		if err != nil {
			return err
		}
		return s.send(xid, sum)
	case ofctl.GroupDescRequest:
		groups, err := s.conn.Groups(ctx)
		if err != nil {
			return err
		}
		return s.send(xid, ofctl.Part[ofctl.Group]{Items: groups})
	case ofctl.MeterConfigRequest:
		meters, err := s.conn.Meters(ctx)
		if err != nil {
			return err
		}
		if m.ID != 0 {
			meters = slices.DeleteFunc(meters, func(have ofctl.Meter) bool { return have.ID != m.ID })
			if len(meters) == 0 {
				return refuse(ofctl.ErrTypeMeterModFailed, meterModUnknown)
			}
		}
		return s.send(xid, ofctl.Part[ofctl.Meter]{Items: meters})
	case ofctl.MeterFeaturesRequest:
		return s.send(xid, meterFeatures(s.conn.Features()))
	case ofctl.PortDescRequest:
		ports, err := s.conn.Ports(ctx)
		if err != nil {
			return err
		}
		return s.send(xid, ofctl.Part[ofctl.Port]{Items: ports})
	case ofctl.Unknown, ofctl.Experimenter:
		return refuse(ofctl.ErrTypeBadRequest, badRequestType)
	}
	return s.stats(ctx, xid, m)
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

func (s *session) bundle(ctx context.Context, xid uint32, m ofctl.BundleControl) error {
	if err := s.mayChange(); err != nil {
		return err
	}
	b := s.bundles[m.ID]
	if b == nil && m.Type != ofctl.BundleOpen {
		return refuseBundle(bundleBadID)
	}
	switch m.Type {
	case ofctl.BundleOpen:
		if b != nil {
			return refuseBundle(bundleExists)
		}
		s.bundles[m.ID] = new(bundle)
	case ofctl.BundleClose:
		if b.closed {
			return refuseBundle(bundleClosed)
		}
		b.closed = true
	case ofctl.BundleDiscard:
		delete(s.bundles, m.ID)
	case ofctl.BundleCommit:
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
func (s *session) bundleAdd(xid uint32, m ofctl.BundleAdd) error {
	b := s.bundles[m.ID]
	mod := m.Mod
	switch {
	case b == nil:
		b = new(bundle) // added to an ID that is not open: opens it (EXT-230, section 4)
		s.bundles[m.ID] = b
	case b.closed:
		return refuseBundle(bundleClosed)
	}
	if err := s.sw.checkEarly(mod); err != nil {
		return err
	}
	b.mods, b.xids = append(b.mods, mod), append(b.xids, xid)
	return nil
}
