package icedtls

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/viasnet/vias/overlay"
)

const (
	pingInterval = 500 * time.Millisecond
	// lossTime without anything heard ends the Link: five pings.
	lossTime = 2500 * time.Millisecond
	// pingTick is how often the two are looked at.
	pingTick = 125 * time.Millisecond
	// A Link over which we sent no frames for idleTime pings seldom: as late as leaves time to ask
	// again some times before lossTime, and for the answers to come. Each end sees to it by its own
	// pings that it hears the other, so the ends need not agree. The dialler asks a tick earlier, so that
	// one asks and one answers, and not both do both.
	idleTime     = 30 * time.Second
	idleInterval = 1750 * time.Millisecond
	// rttInterval is how old a busy Link's RTT may get.
	rttInterval = 5 * time.Second
)

// pulse is what tells whether a Link's peer is alive. Times are since start, in ns.
type pulse struct {
	start  time.Time
	first  bool // we ask a tick before the peer would
	heard  atomic.Int64
	said   atomic.Int64
	pinged atomic.Int64
	asked  atomic.Int64 // the first ping that no pong has followed; 0 = none
	rtt    atomic.Int64
	busy   atomic.Bool // frames were sent since the watch looked
	idle   atomic.Bool // none for idleTime; the watch's
	used   int64       // when the watch last saw it busy; the watch's
}

// verdict is what a pulse asks for.
type verdict uint8

const (
	verdictAlive verdict = iota
	verdictPing
	verdictLost
)

func (p *pulse) now() int64 { return int64(time.Since(p.start)) }

// noteUse looks whether the Link is in use.
func (p *pulse) noteUse() {
	if p.busy.Swap(false) {
		p.used = p.now()
	}
	p.idle.Store(p.now()-p.used > int64(idleTime))
}

// judge says what is to be done. Anything heard is a sign of life; a ping is sent when we have been
// silent, so that the peer hears of us, or when nothing was heard, so that the peer answers.
func (p *pulse) judge(loss time.Duration) verdict {
	now, asked, interval := p.now(), p.asked.Load(), p.interval()
	silence := now - p.heard.Load()
	quiet := max(silence, now-p.said.Load())
	switch sincePing := now - p.pinged.Load(); {
	case silence > int64(loss), asked != 0 && now-asked > int64(consentTime):
		return verdictLost
	case p.pinged.Load() == 0,
		silence > int64(interval+2*pingTick), // at each tick: one that was lost is no reason for another path
		sincePing >= int64(p.patience()) && (asked != 0 || quiet >= int64(p.patience())),
		sincePing >= int64(rttInterval):
		return verdictPing
	}
	return verdictAlive
}

// ask notes that a ping is sent, and returns it.
func (p *pulse) ask() []byte {
	now := p.now()
	p.pinged.Store(now)
	p.asked.CompareAndSwap(0, now)
	return binary.BigEndian.AppendUint64([]byte{recordPing}, uint64(now))
}

// pong smooths the round-trip time as TCP does (RFC 6298, section 2).
func (p *pulse) pong(b []byte) {
	if len(b) != pingLen {
		return
	}
	p.asked.Store(0)
	sample := p.now() - int64(binary.BigEndian.Uint64(b[1:]))
	if sample <= 0 || sample > int64(lossTime) {
		return
	}
	if old := p.rtt.Load(); old != 0 {
		sample = old + (sample-old)/8
	}
	p.rtt.Store(sample)
}

// interval is how long the Link is silent until it pings.
func (p *pulse) interval() time.Duration {
	if p.idle.Load() {
		return max(idleInterval-2*time.Duration(p.rtt.Load()), pingInterval)
	}
	return pingInterval
}

// patience is interval, or less for the end that asks first.
func (p *pulse) patience() time.Duration {
	if p.first && p.idle.Load() {
		return p.interval() - pingTick
	}
	return p.interval()
}

// pause is until when one need not look; settled tells that nothing else is under way.
func (p *pulse) pause(settled bool) time.Duration {
	now := p.now()
	heard := now - p.heard.Load()
	if !settled || !p.idle.Load() || heard > int64(p.interval()) {
		return pingTick
	}
	if p.asked.Load() != 0 {
		return 2 * pingTick // for the answer
	}
	return max(p.patience()-time.Duration(max(heard, now-p.said.Load())), pingTick)
}

func (l *link) ping() { l.write(l.ask()) }

// look is called by the Transport's watch, at each tick while anything is under way.
func (l *link) look() time.Duration {
	select {
	case <-l.done:
		return 0
	default:
	}
	now := time.Now()
	if l.rtt.Load() != 0 && !l.metPeer {
		l.metPeer = true
		l.session.met()
	}
	l.noteUse()
	l.data.tick()
	l.mtu.tick(now)
	l.data.rekey(now)
	l.mend.tick(now)
	switch l.judge(l.session.transport.config.lossTime) {
	case verdictLost:
		l.session.transport.wg.Go(func() { l.fail(overlay.ErrLinkLost) }) // which waits for what it ends
		return 0
	case verdictPing:
		l.ping()
	}
	return l.pause(l.data.settled() && l.mend.settledPath())
}

// use tells the watch that the Link is in use; at once, if it was idle.
func (l *link) use() {
	if l.busy.Load() { // costs less than the rest
		return
	}
	l.busy.Store(true)
	if l.idle.Load() {
		l.wakeWatch()
	}
}

// wakeWatch has the Link looked at at once.
func (l *link) wakeWatch() { l.session.transport.watch.wake(&l.watched) }
