package embedded

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/natssignal"
)

// door lets clients in. It implements server.Authentication.
type door struct {
	admit  func(overlay.PeerID) bool
	keeper string // its password
}

// Check tells whether a client may connect, and as who.
func (d *door) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == keeperUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(d.keeper)) == 1 {
		return true
	}
	id, err := natssignal.Proof(o.Sig, c.GetNonce())
	if err != nil || !d.admit(id) {
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
	return true
}

const (
	keeperUser     = "keeper"
	keeperInterval = 5 * time.Second
	keeperPause    = 250 * time.Millisecond // while it does not work
	keeperTimeout  = 4 * time.Second
)

// keeper sees to it that the presence bucket is there, which no client may make.
type keeper struct {
	password string
	log      *slog.Logger
	life     context.Context
	end      context.CancelFunc
	wg       sync.WaitGroup
	conn     *nats.Conn
}

func newKeeper(log *slog.Logger) *keeper {
	k := &keeper{password: rand.Text(), log: log}
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
			return fmt.Errorf("bucket for presence: %w", err)
		}
	}
	k.wg.Go(k.keep)
	return nil
}

func (k *keeper) try() error {
	ctx, cancel := context.WithTimeout(k.life, keeperTimeout)
	defer cancel()
	return natssignal.KeepBucket(ctx, k.conn, 0)
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
			k.log.Debug("embedded: no bucket for presence yet; signalling goes on", "err", err)
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
