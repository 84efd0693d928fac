package natssignal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

// DirectoryBucket is the key-value bucket of directories, for all networks.
//
// For each claim there are two keys, N.K.A.r and N.K.A.p, where N is the network's token, K the
// overlay.DirectoryKey and A the node: the record, which is put again and again and expires by itself, and
// the place, which is put once, when the claim begins, and whose revision is Claim.Order. A place
// whose record has expired is removed by [SweepPlaces].
const DirectoryBucket = "vias-directory"

const (
	directorySubject = "$KV." + DirectoryBucket + "."
	directoryInfo    = "$JS.API.STREAM.INFO.KV_" + DirectoryBucket
	directoryGet     = "$JS.API.DIRECT.GET.KV_" + DirectoryBucket
	suffixRecord     = ".r"
	suffixPlace      = ".p"

	maxDirectory     = 40 << 20 // bytes
	directoryTimeout = 5 * time.Second
	maxReplies       = 4096 // messages of one answer
	// markerTime is how long what was withdrawn is remembered as such.
	markerTime = 10 * time.Second
	// watchAgain: a change is heard of when it is sent, which may be before it is stored.
	watchAgain = 200 * time.Millisecond
)

func directoryBucket() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: DirectoryBucket, Description: "who has which endpoint in vias networks",
		History: 1, MaxValueSize: overlay.MaxEntry, MaxBytes: maxDirectory, LimitMarkerTTL: markerTime,
		Storage: jetstream.MemoryStorage,
	}
}

// OpenDirectory returns an opener of Directories, on a connection of their own. Config.Network may be
// missing; the opener's counts. It needs nats-server 2.11 or later. It does not wait for a server.
func OpenDirectory(config Config) overlay.DirectoryOpener {
	return func(ctx context.Context, env overlay.DirectoryEnv) (overlay.Directory, error) {
		c := config
		c.Network = env.Network
		if c.Logger == nil {
			c.Logger = env.Logger
		}
		cl, err := newClient(ctx, c, env.Identity)
		if err != nil {
			return nil, err
		}
		d := &directory{client: cl, keys: map[tap.MAC][]overlay.DirectoryKey{}, watches: map[*watch]struct{}{}}
		connected := cl.connection() // before anybody can watch
		d.wg.Go(func() { d.followConnections(connected) })
		return d, nil
	}
}

// directory implements overlay.Directory.
type directory struct {
	*client
	wg sync.WaitGroup

	writing sync.Mutex // serialises Publish and Withdraw
	keys    map[tap.MAC][]overlay.DirectoryKey

	watching sync.Mutex // guards what follows
	watches  map[*watch]struct{}
}

func (d *directory) subject(k overlay.DirectoryKey, peer, suffix string) string {
	return directorySubject + d.token + "." + string(k) + "." + peer + suffix
}

// within runs f with a context that ends with ctx, with Close, and after directoryTimeout.
func (d *directory) within(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, directoryTimeout, errSilent)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(d.life, func() { stop(d.ended()) })()
	if err := d.ended(); err != nil {
		return &overlay.OpError{Op: "directory", Err: err}
	}
	if err := ctx.Err(); err != nil {
		return &overlay.OpError{Op: "directory", Err: context.Cause(ctx)}
	}
	if !d.conn.IsConnected() {
		return &overlay.OpError{Op: "directory", Err: errors.Join(errNoConnection, d.conn.LastError())}
	}
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return &overlay.OpError{Op: "directory", Err: err}
	}
	return nil
}

var (
	errSilent       = errors.New("the server did not answer in time")
	errNoConnection = errors.New("no connection to a NATS server")
	errOtherRecord  = errors.New("the record is another identity's")
)

// Publish makes a place for each claim that has none, and puts the record.
func (d *directory) Publish(ctx context.Context, r overlay.Record) error {
	return d.within(ctx, func(ctx context.Context) error {
		if r.Peer != d.self {
			return errOtherRecord
		}
		d.writing.Lock()
		defer d.writing.Unlock()
		if _, err := d.bucket(ctx, directoryBucket()); err != nil {
			return fmt.Errorf("bucket: %w", err)
		}
		keys := r.Keys()
		missing, err := d.missing(ctx, keys)
		if err != nil {
			return err
		}
		js, err := jetstream.New(d.conn)
		if err != nil {
			return err
		}
		// A place first: a record without one is behind all others.
		if err := d.put(ctx, js, missing, suffixPlace, []byte{1}); err != nil {
			return fmt.Errorf("place: %w", err)
		}
		d.keys[r.MAC] = union(d.keys[r.MAC], keys)
		if err := d.put(ctx, js, keys, suffixRecord, r.Signed, jetstream.WithMsgTTL(max(r.Life, time.Second))); err != nil {
			return fmt.Errorf("record: %w", err)
		}
		old := slices.DeleteFunc(slices.Clone(d.keys[r.MAC]), func(k overlay.DirectoryKey) bool { return slices.Contains(keys, k) })
		if err := d.remove(ctx, js, old); err != nil {
			return err
		}
		d.keys[r.MAC] = keys
		return nil
	})
}

// missing are the keys under which our claim begins now: there is no place, or no record any more.
func (d *directory) missing(ctx context.Context, keys []overlay.DirectoryKey) ([]overlay.DirectoryKey, error) {
	self := d.self.String()
	var subjects []string
	for _, k := range keys {
		subjects = append(subjects, d.subject(k, self, ".*"))
	}
	list, err := d.last(ctx, subjects)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, m := range list {
		there[m.subject] = true
	}
	return slices.DeleteFunc(slices.Clone(keys), func(k overlay.DirectoryKey) bool {
		return there[d.subject(k, self, suffixPlace)] && there[d.subject(k, self, suffixRecord)]
	}), nil
}

func union(a, b []overlay.DirectoryKey) []overlay.DirectoryKey {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

// put stores the same under several keys, and waits for all of them.
func (d *directory) put(ctx context.Context, js jetstream.JetStream, keys []overlay.DirectoryKey, suffix string, value []byte,
	opts ...jetstream.PublishOpt,
) error {
	return d.publish(ctx, js, keys, suffix, func(subject string) *nats.Msg { return &nats.Msg{Subject: subject, Data: value} }, opts...)
}

// remove forgets keys: both halves of each claim.
func (d *directory) remove(ctx context.Context, js jetstream.JetStream, keys []overlay.DirectoryKey) error {
	for _, suffix := range []string{suffixRecord, suffixPlace} {
		err := d.publish(ctx, js, keys, suffix, func(subject string) *nats.Msg {
			return &nats.Msg{Subject: subject, Header: nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}}
		}, jetstream.WithMsgTTL(markerTime))
		if err != nil {
			return fmt.Errorf("withdraw: %w", err)
		}
	}
	return nil
}

func (d *directory) publish(ctx context.Context, js jetstream.JetStream, keys []overlay.DirectoryKey, suffix string,
	message func(subject string) *nats.Msg, opts ...jetstream.PublishOpt,
) error {
	var all []jetstream.PubAckFuture
	for _, k := range keys {
		f, err := js.PublishMsgAsync(message(d.subject(k, d.self.String(), suffix)), opts...)
		if err != nil {
			return err
		}
		all = append(all, f)
	}
	for _, f := range all {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Withdraw removes our claims for mac.
func (d *directory) Withdraw(ctx context.Context, mac tap.MAC) error {
	return d.within(ctx, func(ctx context.Context) error {
		d.writing.Lock()
		defer d.writing.Unlock()
		keys := d.keys[mac]
		if len(keys) == 0 {
			return nil
		}
		js, err := jetstream.New(d.conn)
		if err != nil {
			return err
		}
		if err := d.remove(ctx, js, keys); err != nil {
			return err
		}
		delete(d.keys, mac)
		return nil
	})
}

// Lookup asks for all claims to a key at once.
func (d *directory) Lookup(ctx context.Context, key overlay.DirectoryKey) (claims []overlay.Claim, err error) {
	err = d.within(ctx, func(ctx context.Context) error {
		list, err := d.last(ctx, []string{d.subject(key, "*", ".*")})
		if errors.Is(err, jetstream.ErrBucketNotFound) { // nobody published yet, or it was lost
			_, err = d.bucket(ctx, directoryBucket())
		}
		if err != nil {
			return err
		}
		places := map[string]uint64{}
		for _, m := range list {
			if who, ok := strings.CutSuffix(m.subject, suffixPlace); ok {
				places[who] = m.revision
			}
		}
		for _, m := range list {
			if who, ok := strings.CutSuffix(m.subject, suffixRecord); ok {
				order := places[who]
				if order == 0 { // its place was lost: it is behind the others
					order = m.revision
				}
				claims = append(claims, overlay.Claim{Signed: m.data, Order: order})
			}
		}
		slices.SortFunc(claims, func(a, b overlay.Claim) int { return int(a.Order) - int(b.Order) })
		claims = claims[:min(len(claims), overlay.MaxClaims)]
		return nil
	})
	return claims, err
}

// stored is what a key holds.
type stored struct {
	subject  string
	revision uint64
	data     []byte
}

// last asks for what all keys hold whose subjects match: one question, many answers.
func (s *client) last(ctx context.Context, subjects []string) (list []stored, err error) {
	return lastOf(ctx, s.conn, subjects)
}

func lastOf(ctx context.Context, conn *nats.Conn, subjects []string) (list []stored, err error) {
	question, err := json.Marshal(map[string]any{"multi_last": subjects, "batch": maxReplies})
	if err != nil {
		return nil, err
	}
	inbox := conn.NewRespInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := conn.PublishRequest(directoryGet, inbox, question); err != nil {
		return nil, err
	}
	for len(list) < maxReplies {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) {
			return nil, jetstream.ErrBucketNotFound
		}
		if err != nil {
			return nil, err
		}
		switch status := m.Header.Get("Status"); {
		case status == "204", status == "404": // that was all; nothing
			return list, nil
		case status != "":
			return nil, fmt.Errorf("the server says %s %s", status, m.Header.Get("Description"))
		case m.Header.Get("KV-Operation") != "", m.Header.Get("Nats-Marker-Reason") != "":
			continue // it holds nothing any more
		}
		revision, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 63)
		if err != nil {
			return nil, fmt.Errorf("revision: %w", err)
		}
		list = append(list, stored{m.Header.Get("Nats-Subject"), revision, m.Data})
	}
	return list, nil
}
