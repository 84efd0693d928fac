package chaos

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a wire in memory. All connections end with what cut is given.
type pipes struct {
	mu    sync.Mutex
	ends  []*pipeEnd
	conns chan net.Conn
	once  sync.Once
	gone  chan struct{}
	dead  bool // nothing gets through
	twist bool // what gets through is changed
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), gone: make(chan struct{})} }

func (p *pipes) wire() Wire { return Wire{Listener: p, Dial: p.dial} }

// Accept is net.Listener's.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.gone:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.gone) })
	return nil
}

// Addr is net.Listener's.
func (p *pipes) Addr() net.Addr { return nil }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	err := new(error)
	end := &pipeEnd{Conn: a, p: p, client: true, err: err}
	p.mu.Lock()
	p.ends = append(p.ends, end)
	p.mu.Unlock()
	select {
	case p.conns <- &pipeEnd{Conn: b, p: p, err: err}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return end, nil
}

// pipeEnd is one end of a connection.
type pipeEnd struct {
	net.Conn
	p      *pipes
	client bool   // whose bytes may be lost or changed
	err    *error // of both ends; guarded by p.mu
}

func (e *pipeEnd) Write(b []byte) (int, error) {
	e.p.mu.Lock()
	err, dead, twist := *e.err, e.p.dead && e.client, e.p.twist && e.client
	e.p.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case dead:
		return len(b), nil
	case twist:
		b = append([]byte(nil), b...)
		b[len(b)-1] ^= 1
	}
	n, err := e.Conn.Write(b)
	return n, e.or(err)
}

// or is why the connection was cut, if it was.
func (e *pipeEnd) or(err error) error {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	if *e.err != nil && err != nil {
		return *e.err
	}
	return err
}

func (e *pipeEnd) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	return n, e.or(err)
}

// cut ends the newest connection.
func (p *pipes) cut(err error) {
	p.mu.Lock()
	end := p.ends[len(p.ends)-1]
	*end.err = err
	p.mu.Unlock()
	_ = end.Close()
}

func (p *pipes) set(f func()) func(context.Context) error {
	return func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		f()
		return nil
	}
}

// within a minute of virtual time.
func finish(t *testing.T, x *Transfer) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return x.Finish(ctx)
}

func TestTransferResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		x := Start("a to b", p.wire(), Marker{1}, 1)
		defer x.Abort()
		start := time.Now()
		for range 5 {
			sleep(t.Context(), 3*time.Second)
			p.cut(syscall.ETIMEDOUT)
		}
		sleep(t.Context(), 3*time.Second)
		require.Len(t, x.breaks(), 5)
		require.ErrorIs(t, x.breaks()[4].err, syscall.ETIMEDOUT)
		require.Equal(t, redial, x.gap(start, time.Now()).Round(100*time.Millisecond))
		require.NoError(t, finish(t, x))
		there, back := x.Bytes()
		want := uint64(18*time.Second/interval) * chunkSize
		require.InEpsilon(t, want, there, 0.2)
		require.InEpsilon(t, want, back, 0.2)
	})
}

func TestTransferFindsOtherBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		x := Start("a to b", p.wire(), Marker{1}, 1)
		defer x.Abort()
		sleep(t.Context(), time.Second)
		require.NoError(t, x.Wrong())
		require.NoError(t, p.set(func() { p.twist = true })(t.Context()))
		sleep(t.Context(), time.Second)
		require.ErrorContains(t, x.Wrong(), "is not what was sent")
		require.ErrorContains(t, finish(t, x), "with checksums")
	})
}

func TestTransferFindsWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		x := Start("a to b", p.wire(), Marker{1}, 1)
		defer x.Abort()
		sleep(t.Context(), time.Second)
		require.NoError(t, p.set(func() { p.dead = true })(t.Context()))
		sleep(t.Context(), time.Second)
		require.ErrorIs(t, finish(t, x), context.DeadlineExceeded)
	})
}

func TestMarkerIsInEveryChunk(t *testing.T) {
	c := &course{marker: Marker{7, 8, 9}}
	b, again := make([]byte, 3*chunkSize), make([]byte, 100)
	c.fill(0, b)
	for at := 0; at < len(b); at += chunkSize {
		require.Equal(t, c.marker[:], b[at:at+len(c.marker)])
	}
	c.fill(chunkSize-50, again)
	require.Equal(t, b[chunkSize-50:chunkSize+50], again)
	require.NotEqual(t, b[20:100], b[chunkSize+20:chunkSize+100])
}

// tried is a run with one transfer and one kind of fault.
func tried(t *testing.T, fault func(*pipes) Fault, edit func(*Config)) (Report, error) {
	t.Helper()
	p := newPipes()
	x := Start("a to b", p.wire(), Marker{1}, 1)
	defer x.Abort()
	cfg := Config{Seed: 3, Duration: 30 * time.Second, Events: 2, Recover: 10 * time.Second, Faults: []Fault{fault(p)}, Transfers: []*Transfer{x}}
	if edit != nil {
		edit(&cfg)
	}
	r, err := Run(t.Context(), cfg)
	if err == nil {
		require.NoError(t, finish(t, x))
	}
	return r, err
}

// away is a fault in which nothing gets through.
func away(p *pipes) Fault {
	return Fault{Kind: "away", Target: "wire", Min: 2 * time.Second, Max: 2 * time.Second,
		Break: p.set(func() { p.dead = true }), Mend: func(ctx context.Context) error {
			p.cut(syscall.ETIMEDOUT) // what was lost is sent again by another
			return p.set(func() { p.dead = false })(ctx)
		}}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*pipes) Fault
		edit  func(*Config)
		err   string
	}{
		{"a fatal fault, survived", func(p *pipes) Fault {
			f := away(p)
			f.Fatal = true
			return f
		}, nil, ""},
		{"a connection that ends though nothing is fatal", away, nil, "its connection ended after 2.0 s of silence: connection timed out"},
		{"a connection whose peer cannot be reached", func(p *pipes) Fault {
			return Fault{Kind: "x", Target: "wire", Fatal: true, Break: func(context.Context) error {
				p.cut(syscall.EHOSTUNREACH)
				return nil
			}}
		}, nil, "no route to host"},
		{"a connection that nobody answers for as long as it waits", func(p *pipes) Fault {
			return Fault{Kind: "away", Target: "wire", Min: 2 * time.Second, Max: 2 * time.Second, Fatal: true,
				Break: p.set(func() { p.dead = true }), Mend: func(ctx context.Context) error {
					p.cut(syscall.EHOSTUNREACH)
					return p.set(func() { p.dead = false })(ctx)
				}}
		}, func(c *Config) { c.Patience = time.Second }, ""},
		{"a connection that is reset", func(p *pipes) Fault {
			return Fault{Kind: "reset", Target: "wire", Fatal: true, Break: func(context.Context) error {
				p.cut(syscall.ECONNRESET)
				return nil
			}}
		}, nil, "connection reset by peer"},
		{"a wire that is not mended", func(p *pipes) Fault {
			return Fault{Kind: "away", Target: "wire", Break: p.set(func() { p.dead = true })}
		}, nil, "not whole 10s after everything was mended: a to b: 0 bytes"},
		{"other bytes", func(p *pipes) Fault {
			return Fault{Kind: "twist", Target: "wire", Break: p.set(func() { p.twist = true })}
		}, nil, "is not what was sent"},
		{"what else must be", func(*pipes) Fault {
			return Fault{Kind: "nothing", Target: "wire", Break: func(context.Context) error { return nil }}
		}, func(c *Config) { c.Whole = func(context.Context) error { return errors.New("a node is away") } }, "a node is away"},
		{"a fault that cannot be mended", func(*pipes) Fault {
			return Fault{Kind: "x", Target: "wire", Break: func(context.Context) error { return nil }, Mend: func(context.Context) error { return errors.New("no tool") }}
		}, nil, "wire: x: no tool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := tried(t, c.fault, c.edit)
				if c.err != "" {
					require.ErrorContains(t, err, c.err)
					return
				}
				require.NoError(t, err)
				require.Greater(t, r.Storms, 2)
				require.Empty(t, r.Missing())
				k := r.Kinds[0]
				require.GreaterOrEqual(t, k.Times, r.Storms)
				require.InDelta(t, 2.5, k.Gap.Seconds(), 0.2, "two seconds away, and the pause before another connection")
				require.Equal(t, k.Times, r.Transfers[0].Resumed)
				var text strings.Builder
				r.Print(&text)
				require.Contains(t, text.String(), "seed 3: ")
			})
		})
	}
}

// The same seed draws the same; another, another. No two faults meet at one target, and each
// kind comes once before any comes again.
func TestDraw(t *testing.T) {
	var faults []Fault
	for _, kind := range []string{"a", "b", "c", "d", "e", "f"} {
		for _, target := range []string{"h1", "h2", "h3"} {
			faults = append(faults, Fault{Kind: kind, Target: target, Min: time.Second, Max: 5 * time.Second})
		}
	}
	type drawn struct {
		kind, target string
		at, lasts    time.Duration
	}
	of := func(seed uint64) (list []drawn) {
		r := newRun(Config{Seed: seed, Faults: faults, Events: 3, Storm: 8 * time.Second})
		for storm := range 40 {
			events := r.draw()
			for i, e := range events {
				list = append(list, drawn{e.fault.Kind, e.fault.Target, e.at, e.lasts})
				require.True(t, e.lasts >= e.fault.Min && e.lasts <= e.fault.Max)
				require.Less(t, e.at, 8*time.Second)
				for _, o := range events[:i] {
					require.False(t, e.meets(o))
					require.LessOrEqual(t, o.at, e.at)
				}
			}
			if storm%2 == 1 && len(r.bag) != 0 {
				t.Errorf("storm %d: kinds are left: %v", storm, r.bag)
			}
		}
		return list
	}
	require.Equal(t, of(1), of(1))
	require.NotEqual(t, of(1), of(2))
}

func TestConfigThatCannotBe(t *testing.T) {
	for _, c := range []Config{{}, {Faults: []Fault{{}}, Transfers: []*Transfer{{}}}} {
		_, err := Run(t.Context(), c)
		require.ErrorIs(t, err, ErrChaos)
	}
}

func TestStorms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := tried(t, func(p *pipes) Fault {
			f := away(p)
			f.Fatal = true
			return f
		}, func(c *Config) { c.Storms = 2 })
		require.NoError(t, err)
		require.Equal(t, 2, r.Storms)
	})
}

// Who stops it early mends what is broken.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		x := Start("a to b", p.wire(), Marker{1}, 1)
		defer x.Abort()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		mended := false
		_, err := Run(ctx, Config{Faults: []Fault{{Kind: "x", Target: "y", Min: time.Hour, Max: time.Hour,
			Break: func(context.Context) error { cancel(); return nil },
			Mend:  func(ctx context.Context) error { mended = true; return ctx.Err() }}}, Transfers: []*Transfer{x}})
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, mended)
	})
}
