package natssignal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/viasnet/vias/overlay"
)

// A statement of presence is
//
//	version (1 byte) | instance (8) | time (8, Unix ms) | length of key (1) | key | signature
//
// and the signature (ECDSA with SHA-256, ASN.1) is over presenceContext, the network's
// token, a zero byte and all before it.
const (
	presenceVersion = 1
	presenceContext = "vias natssignal presence 1\x00"
	presenceHead    = 18
	maxPresence     = 512     // bytes of a statement
	maxBucket       = 8 << 20 // bytes: some 20,000 peers
	// maxPresent is how many Present lists at most.
	maxPresent      = 16384
	presenceTimeout = 5 * time.Second
	minAnnounceWait = 300 * time.Millisecond
)

var errPresence = errors.New("natssignal: no statement of presence")

// Presence is what a peer said of itself.
type Presence struct {
	Peer overlay.PeerID
	// Instance is drawn anew whenever the peer opens a Signaler.
	Instance [8]byte
	// At is when it said so, by its own clock.
	At time.Time
}

func presenceDigest(token string, body []byte) []byte {
	h := sha256.New()
	h.Write([]byte(presenceContext))
	h.Write([]byte(token))
	h.Write([]byte{0})
	h.Write(body)
	return h.Sum(nil)
}

func sealPresence(id *overlay.Identity, token string, instance [8]byte, now time.Time) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	if err != nil {
		return nil, fmt.Errorf("natssignal: public key: %w", err)
	}
	b := append([]byte{presenceVersion}, instance[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMilli()))
	b = append(append(b, byte(len(spki))), spki...)
	sig, err := ecdsa.SignASN1(rand.Reader, id.Key(), presenceDigest(token, b))
	if err != nil {
		return nil, fmt.Errorf("natssignal: sign presence: %w", err)
	}
	return append(b, sig...), nil
}

// openPresence reads what peer is said to have said.
func openPresence(peer overlay.PeerID, token string, b []byte) (Presence, error) {
	if len(b) < presenceHead || len(b) > maxPresence || b[0] != presenceVersion {
		return Presence{}, errPresence
	}
	end := presenceHead + int(b[presenceHead-1])
	if len(b) < end || overlay.KeyID(b[presenceHead:end]) != peer {
		return Presence{}, errPresence
	}
	k, err := x509.ParsePKIXPublicKey(b[presenceHead:end])
	if err != nil {
		return Presence{}, errPresence
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, presenceDigest(token, b[:end]), b[end:]) {
		return Presence{}, errPresence
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(b[9:])))
	return Presence{Peer: peer, Instance: [8]byte(b[1:9]), At: at}, nil
}

// announce keeps our presence until Close. It is not what signalling waits for.
func (s *Signaler) announce() {
	var instance [8]byte
	_, _ = rand.Read(instance[:]) // never fails
	told := false                 // that it does not work
	failed := 0
	for {
		next := s.connection()
		err := s.putPresence(instance)
		wait := s.config.PresenceTTL / 3
		switch {
		case s.life.Err() != nil:
			return
		case err == nil:
			failed, told = 0, false
		default:
			s.counters.presence.Add(1)
			failed++
			wait = max(min(wait, backoff(failed)), minAnnounceWait)
			if !told && s.conn.IsConnected() {
				told = true
				s.config.Logger.Warn("natssignal: presence cannot be put; signalling goes on", "err", err)
			}
		}
		select {
		case <-next:
		case <-time.After(wait):
		case <-s.life.Done():
			s.removePresence()
			return
		}
	}
}

func (s *Signaler) key() string { return s.token + "." + s.self.String() }

func (s *Signaler) putPresence(instance [8]byte) error {
	if !s.conn.IsConnected() {
		return errors.New("no connection")
	}
	ctx, cancel := context.WithTimeout(s.life, presenceTimeout)
	defer cancel()
	kv, err := s.bucket(ctx, presenceBucket(s.config.PresenceTTL))
	if err != nil {
		return err
	}
	b, err := sealPresence(s.id, s.token, instance, time.Now())
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, s.key(), b)
	return err
}

// removePresence says that we go, if that can be said at once.
func (s *Signaler) removePresence() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if !s.conn.IsConnected() {
		return
	}
	if kv, err := s.bucket(ctx, presenceBucket(s.config.PresenceTTL)); err == nil {
		_ = kv.Purge(ctx, s.key()) // the TTL does it otherwise
	}
}

// Present lists who says that it is there; the order is undefined. It is a hint and no
// more: the server may leave out whom it likes and repeat what somebody said before, but
// it cannot make a peer say what it never said. What is not signed by its peer is left
// out.
func (s *Signaler) Present(ctx context.Context) ([]Presence, error) {
	list, err := s.present(ctx)
	if err != nil {
		return nil, &overlay.OpError{Op: "presence", Err: err}
	}
	return list, nil
}

func (s *Signaler) present(ctx context.Context) ([]Presence, error) {
	if err := s.ended(); err != nil {
		return nil, err
	}
	kv, err := s.bucket(ctx, presenceBucket(s.config.PresenceTTL))
	if err != nil {
		return nil, fmt.Errorf("bucket: %w", err)
	}
	w, err := kv.Watch(ctx, s.token+".*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read bucket: %w", err)
	}
	defer w.Stop()
	var list []Presence
	for len(list) < maxPresent {
		select {
		case e := <-w.Updates():
			if e == nil { // that was all
				return list, nil
			}
			peer, err := sender(e.Key())
			if err != nil {
				continue
			}
			if p, err := openPresence(peer, s.token, e.Value()); err == nil {
				list = append(list, p)
			}
		case <-s.life.Done():
			return nil, s.ended()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return list, nil
}
