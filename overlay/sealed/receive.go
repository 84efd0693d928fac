package sealed

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

// read takes what the inner Signaler receives.
func (s *Signaler) read() {
	for {
		from, packet, err := s.inner.Recv(s.life)
		switch {
		case err == nil:
			if err := s.take(from, packet); err != nil {
				s.count(err)
				s.config.Logger.Debug("sealed: dropped", "peer", from.Short(), "err", err)
			}
			continue
		case s.life.Err() != nil:
			return
		case errors.Is(err, overlay.ErrClosed):
			s.end(err)
			return
		}
		s.config.Logger.Debug("sealed: receive", "err", err)
		select {
		case <-s.life.Done():
		case <-time.After(retryPause):
		}
	}
}

func (s *Signaler) count(err error) {
	switch {
	case errors.Is(err, errNotOurs):
		s.counters.refused.Add(1)
	case errors.Is(err, errReplayed):
		s.counters.replayed.Add(1)
	case errors.Is(err, errLate):
		s.counters.late.Add(1)
	default:
		s.counters.dropped.Add(1)
	}
}

// take handles one packet; from is what the inner Signaler claims.
func (s *Signaler) take(from overlay.PeerID, packet []byte) error {
	if !s.config.Admit(from) {
		return errNotAdmitted
	}
	kind, rest, err := parsePacket(packet)
	if err != nil {
		return err
	}
	switch kind {
	case kindAsk:
		return s.asked(from, rest)
	case kindCard:
		return s.told(from, rest)
	case kindStale:
		return s.refusedKey(from, rest)
	default:
		return s.received(from, packet)
	}
}

// asked answers with our key.
func (s *Signaler) asked(from overlay.PeerID, nonce []byte) error {
	if !s.limits.cards.take(s.config.clock()) {
		return errLimit
	}
	now := s.now()
	s.mu.Lock()
	key, err := s.keys.current(now)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	card, err := s.own.card(from, [nonceLength]byte(nonce), key, now)
	if err != nil {
		return err
	}
	s.post(from, card)
	return nil
}

// told takes a peer's key, if we asked for it, and sends what waited for it.
func (s *Signaler) told(from overlay.PeerID, rest []byte) error {
	now := s.now()
	s.mu.Lock()
	nonce, asked := s.contacts.asked(from, now)
	s.mu.Unlock()
	if !asked || !bytes.Equal(nonce[:], rest[:nonceLength]) {
		return errUnasked
	}
	key, clock, err := openCard(from, s.own.id, rest)
	if err != nil {
		return err
	}
	s.mu.Lock()
	queue := s.contacts.learn(from, key, clock-now, now)
	skew := s.contacts.skew(from)
	s.mu.Unlock()
	s.warn(from, skew)
	return s.flush(from, queue)
}

// flush sends messages that waited for a key.
func (s *Signaler) flush(to overlay.PeerID, queue [][]byte) error {
	for _, msg := range queue {
		s.mu.Lock()
		key, stamp := s.contacts.to(to, s.now())
		s.mu.Unlock()
		if key == nil { // forgotten already
			return nil
		}
		packet, err := s.seal(to, key, stamp, msg)
		if err != nil {
			return err
		}
		s.post(to, packet)
	}
	return nil
}

// warn says that a peer's clock and ours differ, if skew is not 0: the reason why offers
// and certificates are not taken is easily overlooked.
func (s *Signaler) warn(peer overlay.PeerID, skew time.Duration) {
	if skew != 0 {
		s.config.Logger.Warn("sealed: the peer's clock and ours differ; links may be refused for that",
			"peer", peer.Short(), "ahead", skew.Round(time.Second))
	}
}

// refusedKey: a peer could not use what we sent it, it says. Anybody can say that, so
// all that follows is that we ask.
func (s *Signaler) refusedKey(from overlay.PeerID, name []byte) error {
	now := s.now()
	s.mu.Lock()
	var ask []byte
	if s.contacts.named(from, keyName(name)) {
		ask = s.contacts.ask(from, now)
	}
	s.mu.Unlock()
	if ask != nil {
		s.post(from, ask)
	}
	return nil
}

// received opens a message.
func (s *Signaler) received(from overlay.PeerID, packet []byte) error {
	if !s.limits.opens.take(s.config.clock()) {
		return errLimit
	}
	name := keyName(packet[headLength:])
	s.mu.Lock()
	key := s.keys.named(name)
	s.mu.Unlock()
	if key == nil { // from before we were restarted, perhaps
		s.stale(from, name)
		return errNotOurs
	}
	m, err := key.open(from, s.own.id, packet)
	if err != nil {
		return err
	}
	reply, err := newPublicKey(m.reply[:])
	if err != nil {
		return err
	}
	now := s.now()
	var queue [][]byte
	var skew time.Duration
	s.mu.Lock()
	newest, err := s.seen.accept(from, entry{m.stamp, m.id}, now)
	if newest {
		queue = s.contacts.hear(from, reply, m.clock-now, now)
		skew = s.contacts.skew(from)
	}
	s.mu.Unlock()
	s.warn(from, skew)
	if errors.Is(err, errLate) { // its idea of our clock is wrong
		s.stale(from, name)
	}
	if err != nil {
		return err
	}
	if err := s.flush(from, queue); err != nil {
		return err
	}
	select {
	case s.inbox <- message{from, slices.Clone(m.body)}:
		return nil
	default:
		return errLimit // nobody receives
	}
}

func (s *Signaler) stale(to overlay.PeerID, name keyName) {
	if s.limits.stales.take(s.config.clock()) {
		s.post(to, stalePacket(name))
	}
}
