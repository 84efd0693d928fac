package ofctltest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// stats answers questions about counters and abilities; refusals as in OpenFlow 1.3.5,
// section 7.4.4. What this switch does not count is ^0, as in Open vSwitch.
func (s *session) stats(ctx context.Context, xid uint32, m ofctl.Message) error {
	var answer ofctl.Message
	var refused error
	err := s.conn.use(ctx, "stats", func() { answer, refused = s.sw.answerLocked(m, time.Now()) })
	if err == nil {
		err = refused
	}
	if err != nil {
		return err
	}
	return s.send(xid, answer)
}

func (s *Switch) answerLocked(m ofctl.Message, now time.Time) (ofctl.Message, error) {
	switch m := m.(type) {
	case ofctl.DescRequest:
		return ofctl.Desc{Manufacturer: "vias", Hardware: "none", Software: "package ofctltest",
			Serial: "None", Datapath: fmt.Sprintf("%016x", s.cfg.DatapathID)}, nil
	case ofctl.TableStatsRequest:
		return s.tableStatsLocked(), nil
	case ofctl.TableFeaturesRequest:
		return s.tableFeaturesLocked(), nil
	case ofctl.PortStatsRequest:
		return s.portStatsLocked(m.Port, now), nil
	case ofctl.QueueStatsRequest:
		if s.ports[m.Port] == nil && m.Port != 0 {
			return nil, refuse(ofctl.ErrTypeQueueOpFailed, 0)
		}
		return ofctl.Part[ofctl.QueueStat]{}, nil // no port has queues
	case ofctl.GroupFeaturesRequest:
		return groupFeatures(), nil
	case ofctl.GroupStatsRequest:
		return s.groupStatsLocked(m.Group), nil
	case ofctl.MeterStatsRequest:
		return s.meterStatsLocked(m.ID)
	}
	return nil, refuse(ofctl.ErrTypeBadRequest, badRequestMultipart)
}

// badRequestMultipart is OFPBRC_BAD_MULTIPART.
const badRequestMultipart = 2

func (s *Switch) tableStatsLocked() ofctl.Message {
	var part ofctl.Part[ofctl.TableStat]
	for i := range s.tables.flows {
		t := &s.tables.flows[i]
		stat := ofctl.TableStat{Table: uint8(i), Lookups: t.lookups, Matched: t.matched}
		for range t.all() {
			stat.Active++
		}
		part.Items = append(part.Items, stat)
	}
	return part
}

// tableFeaturesLocked says of every table that it can lead to all that follow; what
// fields and actions there are is left out.
func (s *Switch) tableFeaturesLocked() ofctl.Message {
	var part ofctl.Part[ofctl.TableFeatures]
	for i := range s.tables.flows {
		t := ofctl.TableFeatures{Table: uint8(i), Name: fmt.Sprint("table", i),
			MetadataMatch: ^uint64(0), MetadataWrite: ^uint64(0), MaxEntries: 1_000_000}
		t.Hit.Instructions = []uint16{1, 2, 3, 4, 5}
		for next := i + 1; next < numTables; next++ {
			t.Hit.Next = append(t.Hit.Next, uint8(next))
		}
		part.Items = append(part.Items, t)
	}
	return part
}

// portStatsLocked: as in Open vSwitch, a port that is not there is no error.
func (s *Switch) portStatsLocked(no uint32, now time.Time) ofctl.Message {
	var part ofctl.Part[ofctl.PortStat]
	for _, n := range s.portNumbersLocked() {
		if no != 0 && n != no {
			continue
		}
		stat := s.ports[n].count
		stat.Port, stat.Age = n, now.Sub(s.ports[n].made)
		part.Items = append(part.Items, stat)
	}
	return part
}

// groupFeatures: all four types, with weights, liveness and chains.
func groupFeatures() ofctl.Message {
	f := ofctl.GroupFeatures{Types: 0xf, Capabilities: 0x7}
	for i := range f.MaxGroups {
		f.MaxGroups[i] = 0xffffff00
		f.Actions[i] = 1<<0 | 1<<17 | 1<<18 | 1<<22 | 1<<24 | 1<<25
	}
	return f
}

// groupStatsLocked counts references; frames are not counted.
func (s *Switch) groupStatsLocked(id uint32) ofctl.Message {
	var part ofctl.Part[ofctl.GroupStat]
	for _, k := range slices.Sorted(maps.Keys(s.tables.groups)) {
		if id != ofctl.GroupEvery && k != id {
			continue
		}
		stat := ofctl.GroupStat{Group: k, Packets: ^uint64(0), Bytes: ^uint64(0)}
		for range s.tables.groups[k].Buckets {
			stat.Buckets = append(stat.Buckets, ofctl.Counter{Packets: ^uint64(0), Bytes: ^uint64(0)})
		}
		for _, f := range s.tables.every() {
			if f.usesGroup(k) {
				stat.References++
			}
		}
		part.Items = append(part.Items, stat)
	}
	return part
}

func (s *Switch) meterStatsLocked(id uint32) (ofctl.Message, error) {
	var part ofctl.Part[ofctl.MeterStat]
	if id != 0 && s.tables.meters[id] == nil {
		return nil, refuse(ofctl.ErrTypeMeterModFailed, meterModUnknown)
	}
	for _, k := range slices.Sorted(maps.Keys(s.tables.meters)) {
		if id != 0 && k != id {
			continue
		}
		m := s.tables.meters[k]
		stat := m.count
		stat.Age, stat.Bands = time.Since(m.made), slices.Clone(stat.Bands)
		for _, f := range s.tables.every() {
			if f.Meter == k {
				stat.Flows++
			}
		}
		part.Items = append(part.Items, stat)
	}
	return part, nil
}

// configure executes a port-mod (section 7.3.4.3). As in Open vSwitch, who made it is not
// told (before OpenFlow 1.5).
func (s *Switch) configure(m ofctl.PortMod, by *Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[m.No]
	switch {
	case p == nil:
		return refuse(ofctl.ErrTypePortModFailed, 0)
	case p.MAC != m.MAC:
		return refuse(ofctl.ErrTypePortModFailed, 1)
	}
	d := p.desc()
	was := d.Config()
	d.SetConfig(was&^m.Mask | m.Config&m.Mask)
	p.Down, p.NoReceive, p.NoForward = d.Down, d.NoReceive, d.NoForward
	if p.desc().Config() != was {
		s.cache.changed(time.Now())
		s.eventButLocked(ofctl.PortStatus{Reason: ofctl.PortModified, Port: p.desc()}, by)
	}
	return nil
}
