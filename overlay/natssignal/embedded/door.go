package embedded

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
)

// door lets clients in, and out again. It implements server.Authentication.
type door struct {
	admit  func(peer overlay.PeerID, credential []byte) error
	keeper string // its password
	log    *slog.Logger

	mu     sync.Mutex
	inside map[uint64]overlay.PeerID // by nats-server's number of the client
}

func newDoor(c *Config, keeper string) *door {
	return &door{admit: c.Admit, keeper: keeper, log: c.Logger, inside: map[uint64]overlay.PeerID{}}
}

// Check tells whether a client may connect, and as who. One that may not is told that it may not,
// whatever the reason.
func (d *door) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == keeperUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(d.keeper)) == 1 {
		return true
	}
	id, credential, err := natssignal.Proof(o.Sig, c.GetNonce())
	if err != nil {
		return false
	}
	if err := d.admit(id, credential); err != nil {
		d.log.Debug("embedded: client refused", "peer", id.Short(), "err", err)
		return false
	}
	publish, subscribe := natssignal.Permissions(id)
	c.RegisterUser(&server.User{
		Username: id.String(),
		Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: subscribe},
		},
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside[c.GetID()] = id
	return true
}

// sweep asks again for all who are inside, and disconnects those who are not admitted any more.
func (d *door) sweep(s *server.Server) {
	d.mu.Lock()
	inside := maps.Clone(d.inside)
	d.mu.Unlock()
	for number, id := range inside {
		err := d.admit(id, nil)
		if err == nil && s.GetClient(number) != nil {
			continue
		}
		if err != nil {
			d.log.Debug("embedded: client is not admitted any more", "peer", id.Short(), "err", err)
			_ = s.DisconnectClientByID(number) // or it has gone
		}
		d.mu.Lock()
		delete(d.inside, number)
		d.mu.Unlock()
	}
}

const (
	keeperUser     = "keeper"
	keeperInterval = 5 * time.Second
	keeperPause    = 250 * time.Millisecond // while it does not work
	keeperTimeout  = 4 * time.Second
	sweepInterval  = 2 * time.Second
	placesInterval = 10 * time.Second
)

// keeper sees to it that the buckets are there, which no client may make, and that nobody
// stays who is not admitted any more.
type keeper struct {
	password string
	log      *slog.Logger
	door     *door
	life     context.Context
	end      context.CancelFunc
	wg       sync.WaitGroup
	conn     *nats.Conn
}

func newKeeper(c *Config) *keeper {
	k := &keeper{password: rand.Text(), log: c.Logger}
	k.door = newDoor(c, k.password)
	k.life, k.end = context.WithCancel(context.Background())
	return k
}

// run begins. A server that is alone has its bucket then; a cluster has to find a leader.
func (k *keeper) run(s *server.Server, alone bool) (err error) {
	if k.conn, err = internalConn(s, k.password); err != nil {
		return fmt.Errorf("own connection: %w", err)
	}
	if alone {
		if err := k.try(); err != nil {
			return fmt.Errorf("buckets: %w", err)
		}
	}
	k.wg.Go(k.keep)
	k.wg.Go(func() { k.watch(s) })
	return nil
}

// watch has the door look after those who are inside, and directories after what expired.
func (k *keeper) watch(s *server.Server) {
	tick, places := time.NewTicker(sweepInterval), time.NewTicker(placesInterval)
	defer tick.Stop()
	defer places.Stop()
	var found natssignal.Places
	for {
		select {
		case <-k.life.Done():
			return
		case <-tick.C:
			k.door.sweep(s)
		case <-places.C:
			found = k.sweepPlaces(found)
		}
	}
}

// sweepPlaces has directories forget who came first, where nobody is there any more.
func (k *keeper) sweepPlaces(found natssignal.Places) natssignal.Places {
	ctx, cancel := context.WithTimeout(k.life, keeperTimeout)
	defer cancel()
	found, err := natssignal.SweepPlaces(ctx, k.conn, found)
	if err != nil && k.life.Err() == nil {
		k.log.Debug("embedded: places of expired claims stay for now", "err", err)
	}
	return found
}

func (k *keeper) try() error {
	ctx, cancel := context.WithTimeout(k.life, keeperTimeout)
	defer cancel()
	return natssignal.KeepBuckets(ctx, k.conn)
}

func (k *keeper) keep() {
	told := false
	for {
		err := k.try()
		wait := keeperInterval
		if err != nil {
			wait = keeperPause
		}
		if err != nil && !told && k.life.Err() == nil {
			k.log.Debug("embedded: buckets are not there yet; signalling goes on", "err", err)
		}
		told = err != nil
		select {
		case <-k.life.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (k *keeper) close() {
	k.end()
	k.wg.Wait()
	if k.conn != nil {
		k.conn.Close()
	}
}
