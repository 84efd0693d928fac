package natssignal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	bucketReplicas = 3 // in a cluster
	createTimeout  = time.Second
)

func presenceBucket(ttl time.Duration) jetstream.KeyValueConfig {
	if ttl == 0 {
		ttl = defaultPresenceTTL
	}
	return jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "who is there in vias networks",
		TTL: ttl, History: 1, MaxValueSize: maxPresence, MaxBytes: maxBucket,
		Storage: jetstream.MemoryStorage,
	}
}

// KeepBuckets makes the buckets of presence and of directories on a server or cluster, if they
// are not there. Clients do it themselves; it is public for servers that do not let
// them (see [Permissions]). In a cluster three members keep them as soon as there are
// three, also what was made while there was one. They are in memory: what is in them would be stale
// after a restart anyway.
func KeepBuckets(ctx context.Context, conn *nats.Conn) error {
	for _, config := range []jetstream.KeyValueConfig{presenceBucket(0), directoryBucket()} {
		if err := keepBucket(ctx, conn, config); err != nil {
			return err
		}
	}
	return nil
}

func createBucket(ctx context.Context, conn *nats.Conn, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("natssignal: JetStream: %w", err)
	}
	kv, err := js.KeyValue(ctx, config.Bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	if conn.ConnectedClusterName() != "" {
		config.Replicas = bucketReplicas
		if kv, err = js.CreateKeyValue(ctx, config); err == nil {
			return kv, nil
		}
		config.Replicas = 1
	}
	kv, err = js.CreateKeyValue(ctx, config)
	if errors.Is(err, jetstream.ErrBucketExists) { // somebody was faster
		return js.KeyValue(ctx, config.Bucket)
	}
	return kv, err
}

func keepBucket(ctx context.Context, conn *nats.Conn, config jetstream.KeyValueConfig) error {
	kv, err := createBucket(ctx, conn, config)
	if err != nil || conn.ConnectedClusterName() == "" {
		return err
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return fmt.Errorf("natssignal: bucket: %w", err)
	}
	if b, ok := status.(*jetstream.KeyValueBucketStatus); !ok || b.StreamInfo().Config.Replicas >= bucketReplicas {
		return nil
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("natssignal: JetStream: %w", err)
	}
	config.Replicas = bucketReplicas
	_, err = js.UpdateKeyValue(ctx, config)
	return err
}

// bucket returns a bucket, and makes it where the server lets us. A server does not answer what it
// forbids, so that is not waited for until ctx ends.
func (s *client) bucket(ctx context.Context, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	js, err := jetstream.New(s.conn)
	if err != nil {
		return nil, fmt.Errorf("natssignal: JetStream: %w", err)
	}
	kv, err := js.KeyValue(ctx, config.Bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	short, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	if kv, err = createBucket(short, s.conn, config); err == nil {
		return kv, nil
	}
	if ctx.Err() == nil && short.Err() != nil {
		return nil, fmt.Errorf("%w, and only the server may make it", jetstream.ErrBucketNotFound)
	}
	return nil, err
}
