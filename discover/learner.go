package discover

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/viasnet/vias/ofctl"
)

// Times of the learner.
const (
	audit    = 10 * time.Second // how often the switch is compared with what is wanted
	setTime  = 10 * time.Second // bounds one comparison
	farewell = time.Second      // bounds taking all out at the end
)

// learner keeps the flows of learning in the switch, and brings the copies.
type learner struct {
	cfg    *Config
	copied func(frame)

	mu      sync.Mutex // guards wanted
	wanted  []lesson
	changed chan struct{} // of length 1
}

func newLearner(cfg *Config, copied func(frame)) *learner {
	return &learner{cfg: cfg, copied: copied, changed: make(chan struct{}, 1)}
}

// want says which ports to learn of, from now on.
func (l *learner) want(list []lesson) {
	l.mu.Lock()
	same := reflect.DeepEqual(l.wanted, list)
	l.wanted = list
	l.mu.Unlock()
	if !same {
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

func (l *learner) now() []lesson {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wanted
}

func (l *learner) run(ctx context.Context) {
	l.cfg.connected(ctx, l.event, l.keepSet, "nothing is learned")
}

func (l *learner) keepSet(ctx context.Context, sw ofctl.Switch, lost <-chan error) error {
	again := time.NewTicker(audit)
	defer again.Stop()
	for {
		if err := l.set(ctx, sw, l.now()); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
			defer cancel()
			return l.set(last, sw, nil)
		case err := <-lost:
			return err
		case <-l.changed:
		case <-again.C:
		}
	}
}

// set makes the switch have what is learned of list: the meters first, which flows name,
// and away with meters when no flow does.
func (l *learner) set(ctx context.Context, sw ofctl.Switch, list []lesson) error {
	ctx, cancel := context.WithTimeout(ctx, setTime)
	defer cancel()
	metered := sw.Features().Capabilities.Has(ofctl.CapMeter)
	surplus, err := l.meters(ctx, sw, len(list), metered)
	if err != nil {
		return fmt.Errorf("meters: %w", err)
	}
	var wanted ofctl.Wanted
	for _, one := range list {
		wanted.Flows = append(wanted.Flows, l.cfg.flows(one, metered)...)
	}
	if _, err := ofctl.Set(ctx, sw, l.cfg.owner(), wanted); err != nil {
		return err
	}
	for _, id := range surplus {
		if err := apply(ctx, sw, ofctl.Delete, ofctl.Meter{ID: id}); err != nil {
			return fmt.Errorf("meters: %w", err)
		}
	}
	return nil
}

// meters makes the first n meters be there; surplus are those that are beyond.
func (l *learner) meters(ctx context.Context, sw ofctl.Switch, n int, metered bool) (surplus []uint32, err error) {
	if !metered {
		return nil, nil
	}
	all, err := sw.Meters(ctx)
	if err != nil {
		return nil, err
	}
	have := map[uint32]ofctl.Meter{}
	for _, m := range all {
		i := m.ID - l.cfg.MeterBase
		switch {
		case m.ID < l.cfg.MeterBase || i >= uint32(l.cfg.MaxPorts):
		case i >= uint32(n):
			surplus = append(surplus, m.ID)
		default:
			have[m.ID] = m
		}
	}
	for i := range n {
		want := ofctl.Meter{ID: l.cfg.MeterBase + uint32(i), Rate: l.cfg.Rate, Burst: l.cfg.Rate}
		old, there := have[want.ID]
		command := ofctl.Add
		if there {
			command = ofctl.Modify
		}
		if old == want {
			continue
		}
		if err := apply(ctx, sw, command, want); err != nil {
			return nil, err
		}
	}
	return surplus, nil
}

func apply(ctx context.Context, sw ofctl.Switch, command ofctl.Command, m ofctl.Meter) error {
	return sw.Apply(ctx, []ofctl.Mod{ofctl.MeterMod{Command: command, Meter: m}})
}

// event brings the copies that our own flows made.
func (l *learner) event(e ofctl.Event) {
	in, ok := e.(ofctl.PacketIn)
	if !ok || in.Table != l.cfg.Table || in.Cookie != l.cfg.owner().Cookie|uint64(in.InPort) {
		return
	}
	l.copied(frame{in.InPort, append([]byte(nil), in.Frame...)})
}
