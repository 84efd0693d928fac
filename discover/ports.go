package discover

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/viasnet/vias/ofctl"
	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

// portList stands for the database where there is none: it has the ports that the switch itself lists, and
// looks again when the switch says that one came, went or changed (OpenFlow 1.3.5, section 7.4.3).
type portList struct {
	cfg     *Config
	seen    func(*ovsdb.View)
	changed chan struct{} // of length 1

	mu   sync.Mutex     // guards made
	made map[string]int // how often a port of that name went: the next one is another port
}

func newPortList(cfg *Config, seen func(*ovsdb.View)) *portList {
	return &portList{cfg: cfg, seen: seen, changed: make(chan struct{}, 1), made: map[string]int{}}
}

func (l *portList) run(ctx context.Context) {
	l.cfg.connected(ctx, l.event, l.keep, "what is attached stays")
}

func (l *portList) event(e ofctl.Event) {
	s, ok := e.(ofctl.PortStatus)
	if !ok {
		return
	}
	if s.Reason == ofctl.PortDeleted {
		l.mu.Lock()
		l.made[s.Port.Name]++
		l.mu.Unlock()
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// keep looks at one connection's ports: when the switch says that something changed, and now and then, since it
// may have said so before anybody listened.
func (l *portList) keep(ctx context.Context, sw ofctl.Switch, lost <-chan error) error {
	again := time.NewTicker(l.cfg.Retry)
	defer again.Stop()
	for {
		ports, err := sw.Ports(ctx)
		if err != nil {
			return fmt.Errorf("listing ports: %w", err)
		}
		l.seen(&ovsdb.View{Bridges: []ovsdb.Bridge{{Name: l.cfg.Bridge, Ports: l.rows(ports)}}})
		select {
		case <-ctx.Done():
			return nil
		case err := <-lost:
			return err
		case <-l.changed:
		case <-again.C:
		}
	}
}

// rows are ports as the database would have them. What kind of port it is it alone knows.
func (l *portList) rows(ports []ofctl.Port) []ovsdb.Port {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []ovsdb.Port
	for _, p := range ports {
		no := int64(p.No)
		if p.No == ofctl.PortLocal {
			no = ovsdb.LocalPort
		}
		list = append(list, ovsdb.Port{Name: p.Name, Interfaces: []ovsdb.Interface{{
			UUID: fmt.Sprintf("%s/%d", p.Name, l.made[p.Name]), Name: p.Name, Ofport: no}}})
	}
	return list
}
