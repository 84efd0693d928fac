package icedtls

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
)

// A Link outlives its path. When the path is gone, our addresses have changed, or it is by a
// relay, the two ends make another generation of ICE beside the one in use, over the
// signalling (an ICE restart, RFC 8445, section 9), and change over when it has a path:
//
//	dialler                                      acceptor
//	needs a path, or was prompted   ◄── prompt ─── needs a path
//	gathers        ── restart n, or upgrade n ──►  gathers
//	               ◄──────────────── again n ───   checks
//	checks; uses n                                 uses n
//
// Only the session's dialler begins, so two never meet. Records find their session by index or
// connection ID, whichever path they come by, so the ends need not change over at once and
// nothing in flight is lost. An upgrade offers no relay: it finds a direct path, or nothing.
//
// Only the dialler leaves a relay. If it did, and the acceptor's end of that attempt failed, the
// acceptor alone is on the relay, and would be for ever: it prompts when no upgrade comes for longer
// than a dialler waits that is on the relay too.
const (
	// silentTime without anything heard asks for another path, and later where pings are
	// seldom; lossTime ends the Link.
	silentTime = time.Second
	// unansweredTime is the same where records come, but no ping is answered: the peer hears
	// nothing, or whoever is at its address now is not the peer.
	unansweredTime = 3 * time.Second
	// consentTime without an answer to a ping ends the Link: nobody is sent to for longer who
	// does not want it (RFC 7675 allows 30 s). The first ping may be rttInterval late on a busy Link.
	consentTime = 10 * time.Second
	// mendTime and upgradeTime bound one attempt.
	mendTime    = 5 * time.Second
	upgradeTime = 3 * time.Second
	// mendFirst and mendLast are the pauses between attempts, upgradeFirst and upgradeLast
	// those between attempts to leave a relay.
	mendFirst    = 250 * time.Millisecond
	mendLast     = 2 * time.Second
	upgradeFirst = 2 * time.Second
	upgradeLast  = time.Minute
	// upgradeSlack is how late an upgrade may come.
	upgradeSlack = mendTime
	// mendAgain is when a message about it is sent again.
	mendAgain = 300 * time.Millisecond
)

var errMoved = errors.New("addresses changed meanwhile")

// mender finds a Link other paths.
type mender struct {
	link  *link
	asked *bucket // what the peer may ask for

	mu       sync.Mutex // guards what follows
	number   uint32     // of the latest generation that was begun
	attempt  *attempt   // under way; nil = none
	prompted bool       // the peer needs a path
	settled  uint64     // how many moves there had been when the path in use was found

	// The watch's.
	moves             uint64 // that there were at the last look
	next, upgrade     time.Time
	wait, upgradeWait time.Duration
	awaited           awaited
}

// awaited is what an acceptor that is on a relay waits for: the generation after number, until due.
type awaited struct {
	number uint32
	wait   time.Duration // 0: it is on no relay
	due    time.Time
}

// attempt is one generation being made.
type attempt struct {
	number  uint32
	kind    uint8  // kindRestart or kindUpgrade
	moves   uint64 // that there had been when it began
	ctx     context.Context
	cancel  context.CancelCauseFunc
	end     context.CancelFunc     // frees ctx
	answers chan *message          // to the dialler; room for one
	reply   atomic.Pointer[[]byte] // the acceptor's, to send again
}

func (m *mender) init(l *link) {
	m.link, m.asked = l, newBucket(2, 10)
	m.moves = l.session.transport.moves.count.Load()
	m.settled = m.moves
}

// tick is called by the watch, often.
func (m *mender) tick(now time.Time) {
	moves := m.link.session.transport.moves.count.Load()
	if moves != m.moves {
		m.moves, m.wait, m.next, m.upgradeWait = moves, 0, now, 0
	}
	kind := m.need(now, moves)
	m.mu.Lock()
	a := m.attempt
	m.mu.Unlock()
	switch {
	case a != nil:
		if a.moves != moves && kind == kindRestart {
			a.cancel(errMoved)
		}
	case kind == 0:
		m.wait = 0
	case kind == kindUpgrade:
		m.upgradeWait = min(max(2*m.upgradeWait, upgradeFirst), upgradeLast)
		m.upgrade = now.Add(m.upgradeWait)
		m.begin(kind, moves)
	case !now.Before(m.next):
		m.wait = min(max(2*m.wait, mendFirst), mendLast)
		m.next = now.Add(m.wait)
		m.link.session.transport.socket.mapped.forget()
		if m.link.session.dialler {
			m.begin(kind, moves)
		} else {
			m.prompt()
		}
	}
}

// need is what the Link needs: kindRestart, kindUpgrade or nothing.
func (m *mender) need(now time.Time, moves uint64) uint8 {
	l := m.link
	m.mu.Lock()
	prompted, settled, number := m.prompted, m.settled, m.number
	m.mu.Unlock()
	if settled != moves && l.session.inPlace() {
		m.mu.Lock()
		m.settled, settled = moves, moves
		m.mu.Unlock()
	}
	since := l.now()
	asked := l.asked.Load()
	switch {
	case prompted, settled != moves, since-l.heard.Load() > int64(l.interval()+silentTime-pingInterval),
		asked != 0 && since-asked > int64(unansweredTime):
		return kindRestart
	case l.session.path.Load().Kind != overlay.PathRelay:
		m.upgrade, m.upgradeWait, m.awaited = time.Time{}, 0, awaited{}
	case !l.session.dialler:
		if m.awaited.late(now, number) {
			return kindRestart
		}
	case m.upgrade.IsZero() || m.upgradeWait == 0:
		m.upgradeWait = upgradeFirst / 2
		m.upgrade = now.Add(upgradeFirst)
	case !now.Before(m.upgrade):
		return kindUpgrade
	}
	return 0
}

// late tells whether the dialler, whose pauses get longer as upgrades fail, began none when it
// was to.
func (a *awaited) late(now time.Time, number uint32) bool {
	late := a.wait > 0 && now.After(a.due)
	if a.wait == 0 || late || a.number != number {
		a.number, a.wait = number, min(max(2*a.wait, upgradeFirst), upgradeLast)
		a.due = now.Add(a.wait + upgradeSlack)
	}
	return late
}

// settledPath tells whether there is nothing that tick has to look after.
func (m *mender) settledPath() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attempt == nil && !m.prompted && m.settled == m.moves && m.link.session.path.Load().Kind != overlay.PathRelay
}

// inPlace tells whether records still leave from where the path says.
func (s *session) inPlace() bool {
	r := s.path.Load()
	return r.relay == nil && routeSource(r.Remote) == r.Local.Addr()
}

// begin makes the next generation, in a goroutine of its own.
func (m *mender) begin(kind uint8, moves uint64) {
	m.mu.Lock()
	a := m.newAttemptLocked(kind, m.number+1, moves)
	m.prompted = false
	m.mu.Unlock()
	m.start(a, func() error {
		g, err := m.link.session.newGeneration(a.ctx, a.number, kind == kindRestart)
		if err != nil {
			return err
		}
		answer, err := m.call(g, a)
		return m.finish(a.ctx, g, answer, err)
	})
}

func (m *mender) newAttemptLocked(kind uint8, number uint32, moves uint64) *attempt {
	bound := mendTime
	if kind == kindUpgrade {
		bound = upgradeTime
	}
	a := &attempt{number: number, kind: kind, moves: moves, answers: make(chan *message, 1)}
	a.ctx, a.end = context.WithTimeoutCause(m.link.life, bound, errNoAnswer)
	a.ctx, a.cancel = context.WithCancelCause(a.ctx)
	m.number, m.attempt = number, a
	return a
}

// start runs one attempt.
func (m *mender) start(a *attempt, run func() error) {
	l, t := m.link, m.link.session.transport
	work := func() {
		err := run()
		a.cancel(nil)
		a.end()
		t.log.Debug("icedtls: another path", "peer", l.Peer().Short(), "number", a.number,
			"upgrade", a.kind == kindUpgrade, "path", l.Path().Kind, "err", err)
		m.mu.Lock()
		if m.attempt == a {
			m.attempt = nil
		}
		if err == nil {
			m.settled = a.moves
		}
		m.mu.Unlock()
		m.link.wakeWatch()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		a.cancel(nil)
		a.end()
		return
	}
	t.wg.Go(work)
}

// call tells the peer until it answers.
func (m *mender) call(g *generation, a *attempt) (*message, error) {
	t := m.link.session.transport
	again := time.NewTicker(mendAgain)
	defer again.Stop()
	for {
		if _, err := t.post(m.link.session, a.kind, a.number, g); err != nil {
			return nil, err
		}
		select {
		case answer := <-a.answers:
			return answer, nil
		case <-again.C:
		case <-a.ctx.Done():
			return nil, context.Cause(a.ctx)
		}
	}
}

// finish finds the path and changes over to it.
func (m *mender) finish(ctx context.Context, g *generation, remote *message, err error) error {
	if err == nil {
		err = g.connect(ctx, remote)
	}
	if err == nil {
		err = m.link.session.use(g)
	}
	if err != nil {
		g.close()
		return err
	}
	// The checks were answered, under the generation's keys: the peer was heard on this path.
	m.link.heard.Store(m.link.now())
	m.link.asked.Store(0)
	m.link.ping()
	return nil
}

// prompt asks the dialler for a path.
func (m *mender) prompt() {
	m.mu.Lock()
	number := m.number
	m.mu.Unlock()
	t := m.link.session.transport
	if _, err := t.post(m.link.session, kindPrompt, number, nil); err != nil {
		t.log.Warn("icedtls: no path asked for", "peer", m.link.Peer().Short(), "err", err)
	}
}

// mended takes a signalling message about a Link that there is.
func (t *Transport) mended(e *envelope, msg *message) error {
	t.mu.Lock()
	l := t.linked[sessionID(msg.Session)]
	t.mu.Unlock()
	from := overlay.PeerID(msg.From)
	if l == nil || l.Peer() != from || l.session.dialler == (msg.Kind == kindRestart || msg.Kind == kindUpgrade) {
		return nil // too early, too late, or not its part
	}
	m := &l.mend
	if m.repeated(msg) {
		return nil
	}
	if !m.asked.take() || !t.limits.offers.take() {
		return errTooMany
	}
	if err := e.verify(from); err != nil {
		t.wrongKey.Add(1)
		return err
	}
	switch msg.Kind {
	case kindAgain:
		m.answered(msg)
	case kindPrompt:
		m.promptedBy(msg)
	default:
		m.accept(msg)
	}
	return nil
}

var errTooMany = errors.New("too many messages")

// repeated tells whether nothing is to be done about a message, but to answer again what was
// not heard.
func (m *mender) repeated(msg *message) bool {
	m.mu.Lock()
	a, number := m.attempt, m.number
	m.mu.Unlock()
	switch msg.Kind {
	case kindAgain:
		return a == nil || a.number != msg.Generation
	case kindPrompt: // a lower one has not heard of the attempt yet
		return a != nil && msg.Generation < a.number
	}
	if msg.Generation == number && a != nil {
		if reply := a.reply.Load(); reply != nil {
			m.link.session.transport.send(m.link.Peer(), *reply)
		}
	}
	return msg.Generation <= number
}

func (m *mender) answered(msg *message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.attempt; a != nil && a.number == msg.Generation {
		select {
		case a.answers <- msg:
		default:
		}
	}
}

func (m *mender) promptedBy(msg *message) {
	m.mu.Lock()
	m.prompted = true
	if a := m.attempt; a != nil && msg.Generation >= a.number {
		a.cancel(errMoved)
	}
	m.mu.Unlock()
	m.link.wakeWatch()
}

// accept makes the generation that the dialler began.
func (m *mender) accept(msg *message) {
	s := m.link.session
	moves := s.transport.moves.count.Load()
	m.mu.Lock()
	if msg.Generation <= m.number {
		m.mu.Unlock()
		return
	}
	if m.attempt != nil {
		m.attempt.cancel(errMoved)
	}
	a := m.newAttemptLocked(msg.Kind, msg.Generation, moves)
	m.mu.Unlock()
	m.start(a, func() error {
		g, err := s.newGeneration(a.ctx, a.number, a.kind == kindRestart)
		if err != nil {
			return err
		}
		reply, err := s.transport.post(s, kindAgain, a.number, g)
		if err == nil {
			a.reply.Store(&reply)
		}
		return m.finish(a.ctx, g, msg, err)
	})
}
