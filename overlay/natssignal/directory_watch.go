package natssignal

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
)

// watch is one Watch. Changes are heard of as they are sent: that takes no consumer, of which a
// server would have to keep one for each of many thousand.
type watch struct {
	changed func()
	sub     *nats.Subscription // nil = it could not be made; the connection's return tells all

	mu      sync.Mutex
	stopped bool
	again   *time.Timer
}

// tell calls changed, unless stop was called.
func (w *watch) tell() {
	w.mu.Lock()
	stopped := w.stopped
	w.mu.Unlock()
	if !stopped {
		w.changed()
	}
}

// hear is told of a change, and tells of it now and, for what is not stored yet, again.
func (w *watch) hear() {
	w.mu.Lock()
	if !w.stopped {
		if w.again != nil {
			w.again.Stop()
		}
		w.again = time.AfterFunc(watchAgain, w.tell)
	}
	w.mu.Unlock()
	w.tell()
}

// Watch subscribes to what is put under key.
func (d *directory) Watch(key overlay.DirectoryKey, changed func()) (stop func()) {
	w := &watch{changed: changed}
	// An error is that of a closed connection, or one of its limits.
	w.sub, _ = d.conn.Subscribe(d.subject(key, "*", suffixRecord), func(*nats.Msg) { w.hear() })
	d.watching.Lock()
	d.watches[w] = struct{}{}
	d.watching.Unlock()
	return sync.OnceFunc(func() {
		d.watching.Lock()
		delete(d.watches, w)
		d.watching.Unlock()
		w.end()
	})
}

func (w *watch) end() {
	w.mu.Lock()
	w.stopped = true
	if w.again != nil {
		w.again.Stop()
	}
	w.mu.Unlock()
	if w.sub != nil {
		_ = w.sub.Unsubscribe() // or the connection is closed
	}
}

// followConnections tells all watches when a connection is there again: changes were missed.
func (d *directory) followConnections(next <-chan struct{}) {
	for {
		select {
		case <-d.life.Done():
			return
		case <-next:
		}
		next = d.connection() // before they are told: one that comes meanwhile is told of, too
		d.watching.Lock()
		all := make([]*watch, 0, len(d.watches))
		for w := range d.watches {
			all = append(all, w)
		}
		d.watching.Unlock()
		for _, w := range all {
			w.tell()
		}
	}
}

// Close ends the connection; records stay until they expire.
func (d *directory) Close() error {
	d.end(overlay.ErrClosed)
	d.watching.Lock()
	all := d.watches
	d.watches = map[*watch]struct{}{}
	d.watching.Unlock()
	for w := range all {
		w.end()
	}
	d.wg.Wait()
	d.conn.Close()
	return nil
}

// Places is what [SweepPlaces] found without a record: subjects and revisions.
type Places map[string]uint64

// SweepPlaces removes places in directories whose record has expired, so that a claim that ended
// begins anew behind all others. It is for servers that do not let clients do it, called
// again and again with what it returned: what had no record both times is removed.
func SweepPlaces(ctx context.Context, conn *nats.Conn, before Places) (Places, error) {
	list, err := lastOf(ctx, conn, []string{directorySubject + ">"})
	if err != nil {
		return nil, err
	}
	records := map[string]bool{}
	for _, m := range list {
		if who, ok := strings.CutSuffix(m.subject, suffixRecord); ok {
			records[who] = true
		}
	}
	now := Places{}
	for _, m := range list {
		who, ok := strings.CutSuffix(m.subject, suffixPlace)
		if !ok || records[who] {
			continue
		}
		if before[m.subject] != m.revision {
			now[m.subject] = m.revision
			continue
		}
		marker := &nats.Msg{Subject: m.subject, Header: nats.Header{
			"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}, "Nats-TTL": {markerTime.String()},
		}}
		if err := conn.PublishMsg(marker); err != nil {
			return now, err
		}
	}
	return now, nil
}
