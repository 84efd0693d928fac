package icedtls

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// startWatch runs a watch until the test ends.
func startWatch(t *testing.T) *watch {
	w := newWatch()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go w.run(ctx)
	return w
}

// looks notes when it is looked at.
type looks struct {
	watched
	mu sync.Mutex
	at []time.Duration
}

func newLooks(pause time.Duration) *looks {
	x, start := &looks{}, time.Now()
	x.look = func() time.Duration {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.at = append(x.at, time.Since(start))
		return pause
	}
	return x
}

// taken is when it was looked at since the last call.
func (x *looks) taken() []time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	at := x.at
	x.at = nil
	return at
}

// TestWatchTogether: Links that came at different times are looked at at the same moments, each as often as it
// says, and at once when it is woken; not before, and never when it is over or gone.
func TestWatchTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t)
		synctest.Wait()
		often, seldom, once := newLooks(pingTick), newLooks(10*pingTick), newLooks(0)
		<-time.After(3 * time.Millisecond) // of the ticks
		w.add(&often.watched)
		w.add(&once.watched)
		<-time.After(40 * time.Millisecond)
		w.add(&seldom.watched)
		<-time.After(11*pingTick - 43*time.Millisecond)
		synctest.Wait()
		ms := time.Millisecond
		require.Equal(t, []time.Duration{3 * ms}, once.taken())
		require.Equal(t, []time.Duration{43 * ms, 11 * pingTick}, seldom.taken(), "the first tick after its pause")
		at := often.taken()
		require.Len(t, at, 11)
		require.Equal(t, []time.Duration{3 * ms, 2 * pingTick, 3 * pingTick}, at[:3])
		require.Equal(t, 11*pingTick, at[10], "at one moment with the other")

		<-time.After(10 * ms)
		w.wake(&seldom.watched)
		w.remove(&often.watched)
		w.wake(&often.watched)
		w.wake(&once.watched)
		synctest.Wait()
		require.Equal(t, []time.Duration{11*pingTick + 10*ms}, seldom.taken(), "woken")
		<-time.After(10 * pingTick)
		require.Empty(t, seldom.taken(), "its pause begins anew")
		<-time.After(pingTick)
		require.Len(t, seldom.taken(), 1)
		require.Empty(t, often.taken())
		require.Empty(t, once.taken())
	})
}

// TestWatchWokenMeanwhile: who is woken while it is looked at is looked at again.
func TestWatchWokenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWatch(t)
		x := &watched{}
		var n atomic.Int64
		x.look = func() time.Duration {
			if n.Add(1) == 1 {
				w.wake(x)
			}
			return time.Hour
		}
		w.add(x)
		synctest.Wait()
		require.EqualValues(t, 2, n.Load())
		<-time.After(59 * time.Minute)
		require.EqualValues(t, 2, n.Load(), "and then when it says")
	})
}

// far is a pulse, whose watch it is in, and the wire to its peer.
type far struct {
	pulse
	watched
	peer  *far
	cut   atomic.Bool  // what it sends is lost
	pings atomic.Int64 // that it sent
	lost  atomic.Int64 // when it was taken for lost, since start; 0 = it was not
}

const oneWay = 10 * time.Millisecond

// send has f's record come to its peer, if it is not lost.
func (f *far) send(record []byte) {
	f.said.Store(f.now())
	if f.cut.Load() {
		return
	}
	time.AfterFunc(oneWay, func() { f.peer.receive(record) })
}

func (f *far) receive(record []byte) {
	f.heard.Store(f.now())
	switch record[0] {
	case recordPing:
		record[0] = recordPong
		f.send(record)
	case recordPong:
		f.pong(record)
	}
}

// frame is sent, and answered, by whoever uses the link.
func (f *far) frame(w *watch) {
	f.busy.Store(true)
	if f.idle.Load() {
		w.wake(&f.watched)
	}
	f.send([]byte{recordData})
}

func newFar() *far {
	f := &far{pulse: pulse{start: time.Now()}}
	f.watched.look = func() time.Duration {
		f.noteUse()
		switch f.judge(lossTime) {
		case verdictLost:
			f.lost.Store(f.now())
			return 0
		case verdictPing:
			f.pings.Add(1)
			f.send(f.ask())
		}
		return f.pause(true)
	}
	return f
}

// newFars is a link between two nodes whose watches are out of step, and whether l made it; at is l's.
func newFars(t *testing.T, left bool) (l, r *far, at *watch) {
	at = startWatch(t)
	synctest.Wait()
	<-time.After(60 * time.Millisecond)
	there := startWatch(t)
	l, r = newFar(), newFar()
	l.first, r.first = left, !left
	l.peer, r.peer = r, l
	at.add(&l.watched)
	there.add(&r.watched)
	return l, r, at
}

// TestPulseIdle: a link that nobody uses says little, whichever end made it, and neither takes it for lost.
func TestPulseIdle(t *testing.T) {
	for name, left := range map[string]bool{"left": true, "right": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, r, _ := newFars(t, left)
				asks := r
				if left {
					asks = l
				}
				<-time.After(idleTime + time.Second)
				require.True(t, l.idle.Load() && r.idle.Load())
				require.Equal(t, 2*oneWay, time.Duration(l.rtt.Load()))
				l.pings.Store(0)
				r.pings.Store(0)
				<-time.After(10 * time.Minute)
				require.Zero(t, l.lost.Load()+r.lost.Load())
				require.InDelta(t, 10*time.Minute/idleInterval, asks.pings.Load(), 40)
				require.InDelta(t, 10*time.Minute/rttInterval, asks.peer.pings.Load(), 25, "it asks for consent only")
			})
		})
	}
}

// TestPulseLost: a peer that is gone is noticed after lossTime at both ends, whether or not the link was in use.
func TestPulseLost(t *testing.T) {
	for name, unused := range map[string]time.Duration{"busy": time.Second, "idle": idleTime + 10*time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, r, _ := newFars(t, true)
				<-time.After(unused)
				require.Equal(t, name == "idle", l.idle.Load())
				cut := l.now()
				l.cut.Store(true)
				r.cut.Store(true)
				<-time.After(lossTime + 2*pingTick)
				for _, f := range []*far{l, r} {
					after := time.Duration(f.lost.Load() - cut)
					require.GreaterOrEqual(t, after, lossTime-idleInterval-pingTick, "what was heard before is old by then")
					require.LessOrEqual(t, after, lossTime+oneWay+pingTick)
				}
			})
		})
	}
}

// TestPulseHeals: what is lost for less than a link lives is no reason to end an idle one.
func TestPulseHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r, _ := newFars(t, true)
		<-time.After(idleTime + 10*time.Second)
		for i := range 20 {
			l.cut.Store(true)
			r.cut.Store(true)
			<-time.After(lossTime - idleInterval - 2*pingTick)
			l.cut.Store(false)
			r.cut.Store(false)
			<-time.After(idleInterval + time.Duration(i)*7*time.Millisecond)
			require.Zero(t, l.lost.Load()+r.lost.Load())
		}
	})
}

// TestPulseUsed: the first frame after idleness has the path asked at once, and often from then on.
func TestPulseUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r, at := newFars(t, true)
		<-time.After(idleTime + 10*time.Second)
		require.True(t, l.idle.Load())
		l.frame(at)
		synctest.Wait()
		require.False(t, l.idle.Load())
		before := l.pings.Load() + r.pings.Load()
		<-time.After(5 * time.Second)
		require.GreaterOrEqual(t, l.pings.Load()+r.pings.Load()-before, int64(5*time.Second/(pingInterval+2*pingTick)))
	})
}

func TestQueue(t *testing.T) {
	q := newQueue(3)
	require.Nil(t, q.get())
	b := make([]*buffer, 4)
	for i := range b {
		b[i] = &buffer{n: i}
	}
	for range 2 {
		for _, x := range b[:3] {
			require.True(t, q.put(x))
		}
		require.False(t, q.put(b[3]), "it is full")
		require.Equal(t, 3, q.len())
		<-q.ready
		for _, x := range b[:3] {
			require.Same(t, x, q.get())
			require.Nil(t, x.next)
		}
		require.Nil(t, q.get())
		require.Zero(t, q.len())
	}
	require.True(t, q.put(b[0]))
	require.Same(t, b[0], q.get())
	require.True(t, q.put(b[1]))
	<-q.ready // of either
	require.Same(t, b[1], q.get())
}
