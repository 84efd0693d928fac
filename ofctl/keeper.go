package ofctl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// KeeperConfig configures a Keeper.
type KeeperConfig struct {
	// Dial connects to the switch, for Run: Dialer makes one. Keep needs none.
	Dial func(context.Context) (Switch, error)
	// Owner is whose flows are kept.
	Owner Owner
	// Check is how often the number of the owner's flows is asked for, which a deletion by
	// somebody else changes; 0 = 500 ms. (One of flows with SendFlowRemoved is noticed at
	// once.) It costs the switch a walk over its flows.
	Check time.Duration
	// Audit is how often everything is compared, which finds flows that somebody else
	// modified; 0 = 30 s.
	Audit time.Duration
	// Timeout bounds one comparison with what it changes; 0 = 30 s.
	Timeout time.Duration
	// RetryMin and RetryMax bound the wait between attempts to connect, which doubles
	// each time; 0 = 100 ms and 5 s.
	RetryMin, RetryMax time.Duration
	// Notify is told what happens, from one goroutine a switch; it must not block. nil =
	// nobody is.
	Notify func(KeeperEvent)
	// Logger is told about attempts to connect that failed; nil = silent.
	Logger *slog.Logger
}

func (c KeeperConfig) withDefaults() KeeperConfig {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&c.Check, 500*time.Millisecond)
	set(&c.Audit, 30*time.Second)
	set(&c.Timeout, 30*time.Second)
	set(&c.RetryMin, 100*time.Millisecond)
	set(&c.RetryMax, 5*time.Second)
	if c.Notify == nil {
		c.Notify = func(KeeperEvent) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// KeeperEvent is one thing that happened to what a Keeper keeps.
type KeeperEvent struct {
	Kind KeeperKind
	// Changed is what had to be changed.
	Changed Difference
	// Err is why the switch was lost, or did not take what is wanted.
	Err error
}

// KeeperKind is the kind of a KeeperEvent.
type KeeperKind uint8

// Kinds of events.
const (
	KeeperConnected KeeperKind = iota // a switch is there and has all that is wanted
	KeeperChanged                     // it has what Want asked for since
	KeeperHealed                      // somebody else had changed what is wanted, and it is so again
	KeeperFailed                      // the switch does not take it; tried again at every Check
	KeeperLost                        // the switch is gone
)

// String is the kind in a word.
func (k KeeperKind) String() string {
	names := [...]string{"connected", "changed", "healed", "failed", "lost"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Keeper keeps an owner's flows and groups in a switch as they are wanted: it connects,
// does what Set does, notices what others change, and connects again when the switch was
// lost or restarted. What it wants changes with Want, at any time.
//
// A wanted flow should have no time-outs: one that ends is added again.
type Keeper struct {
	cfg KeeperConfig

	mu      sync.Mutex
	wanted  Wanted
	changed chan struct{} // closed when wanted is another
}

// NewKeeper makes a Keeper that wants nothing yet: all of the owner's flows go.
func NewKeeper(cfg KeeperConfig) *Keeper {
	return &Keeper{cfg: cfg.withDefaults(), changed: make(chan struct{})}
}

// Want changes what is wanted. It returns at once; an event says when it is so. An error
// says what could be in no switch, and changes nothing. wanted must not be modified any
// more.
func (k *Keeper) Want(wanted Wanted) error {
	if _, err := newDiff(k.cfg.Owner, wanted); err != nil {
		return fmt.Errorf("ofctl: want: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = wanted
	close(k.changed)
	k.changed = make(chan struct{})
	return nil
}

func (k *Keeper) now() (Wanted, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wanted, k.changed
}

// Run keeps the switch that KeeperConfig.Dial connects to, until ctx ends (nil). What is
// in the switch then stays.
func (k *Keeper) Run(ctx context.Context) error {
	if k.cfg.Dial == nil {
		return errors.New("ofctl: keeper: KeeperConfig.Dial is missing")
	}
	for wait := k.cfg.RetryMin; ctx.Err() == nil; {
		sw, err := k.cfg.Dial(ctx)
		if err == nil {
			var synced bool
			synced, err = k.keep(ctx, sw)
			_ = sw.Close() // lost, or no longer wanted
			if synced {
				wait = k.cfg.RetryMin
			}
		}
		if ctx.Err() != nil {
			break
		}
		// Many controllers that lost their switches at once do not come back at once.
		pause := wait/2 + rand.N(wait/2+1)
		k.cfg.Logger.Warn("ofctl: switch is away", "err", err, "retry", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		wait = min(2*wait, k.cfg.RetryMax)
	}
	return nil
}

// Keep keeps one connection's switch until the connection is lost, which is the error,
// or ctx ends (nil). It is what a function of Serve's calls. It does not close sw.
func (k *Keeper) Keep(ctx context.Context, sw Switch) error {
	_, err := k.keep(ctx, sw)
	return err
}

// keep is Keep; synced says that the switch had all that is wanted once.
func (k *Keeper) keep(ctx context.Context, sw Switch) (synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &keeping{k: k, sw: sw, poke: make(chan struct{}, 1), lost: make(chan error, 1)}
	go func() { s.lost <- sw.Watch(ctx, s.event) }()
	over, err := s.run(ctx)
	cancel()
	if !over {
		<-s.lost
	}
	if err != nil {
		k.cfg.Notify(KeeperEvent{Kind: KeeperLost, Err: err})
		return s.synced, fmt.Errorf("ofctl: keep: %w", err)
	}
	return s.synced, nil
}

// keeping is a Keeper at work on one connection. It belongs to one goroutine.
type keeping struct {
	k      *Keeper
	sw     Switch
	poke   chan struct{} // has one when a flow of the owner's was deleted
	lost   chan error    // Watch's end
	synced bool
	own    int    // flows of the owner's that there should be
	failed string // the failure that was told last
}

// event is Watch's.
func (s *keeping) event(e Event) {
	r, ok := e.(FlowRemoved)
	if !ok || !s.k.cfg.Owner.Owns(r.Flow.Cookie) {
		return
	}
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// run works until the connection is lost or ctx ends (nil); over says that Watch has
// ended.
func (s *keeping) run(ctx context.Context) (over bool, err error) {
	check, audit := time.NewTicker(s.k.cfg.Check), time.NewTicker(s.k.cfg.Audit)
	defer check.Stop()
	defer audit.Stop()
	kind := KeeperConnected
	for {
		wanted, changed := s.k.now()
		if err := s.sync(ctx, wanted, kind); err != nil {
			return false, err
		}
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return false, nil
			case err := <-s.lost:
				if ctx.Err() != nil {
					err = nil
				}
				return true, err
			case <-changed:
				kind, again = KeeperChanged, true
			case <-s.poke:
				kind, again = KeeperHealed, true
			case <-audit.C:
				kind, again = KeeperHealed, true
			case <-check.C:
				if again, err = s.differs(ctx); err != nil {
					return false, err
				}
				kind = KeeperHealed
			}
		}
	}
}

// differs tells whether the number of flows is not as it should be.
func (s *keeping) differs(ctx context.Context) (bool, error) {
	if s.failed != "" {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.k.cfg.Timeout)
	defer cancel()
	o := s.k.cfg.Owner
	sum, err := s.sw.Aggregate(ctx, Owned(o.Cookie, o.Mask))
	if err != nil {
		return false, s.end(ctx, err)
	}
	return int(sum.Flows) != s.own, nil
}

// sync makes the switch be as wanted. An error means that the connection is of no use.
func (s *keeping) sync(ctx context.Context, wanted Wanted, kind KeeperKind) error {
	bounded, cancel := context.WithTimeout(ctx, s.k.cfg.Timeout)
	defer cancel()
	changed, own, err := set(bounded, s.sw, s.k.cfg.Owner, wanted)
	if _, refused := errors.AsType[*SwitchError](err); refused || errors.Is(err, errNotOurs) || errors.Is(err, errPartial) {
		if text := err.Error(); text != s.failed {
			s.failed = text
			s.k.cfg.Notify(KeeperEvent{Kind: KeeperFailed, Err: err})
		}
		return nil
	}
	if err != nil {
		return s.end(ctx, err)
	}
	if !s.synced {
		kind = KeeperConnected
	} else if s.failed != "" {
		kind = KeeperChanged
	}
	s.synced, s.failed, s.own = true, "", own
	if kind != KeeperHealed || changed != (Difference{}) {
		s.k.cfg.Notify(KeeperEvent{Kind: kind, Changed: changed})
	}
	return nil
}

// end is err, or nil if it only says that the Keeper was told to end: run sees that
// itself.
func (s *keeping) end(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return err
}
