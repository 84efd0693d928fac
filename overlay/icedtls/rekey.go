package icedtls

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/pion/dtls/v3"

	"github.com/viasnet/vias/overlay/icedtls/internal/record"
)

// Keys are changed after so much, make before break: a second association is made beside
// the first, its handshake's datagrams travelling as records of the first (so nobody else
// can begin one, and no socket needs to know), with the same two identities; it exports the
// next epoch's keys, and is closed. Both ends go on with the old keys until the new ones
// are confirmed, and can open the old ones' records until the epoch after.
const (
	rekeyRecords = 1 << 26 // in either direction; a quarter of record.MaxRecords leaves time to try again
	rekeyTime    = time.Hour
	rekeyRetry   = time.Minute // after a handshake that failed
	rekeyBound   = 10 * time.Second
	// rekeyMTU leaves room for the record around the handshake's datagrams on any path.
	rekeyMTU   = 1100
	rekeyQueue = 64
)

var (
	errNoState = errors.New("the association has no state to export keys from")
	errEpoch   = errors.New("the epoch is not the next one any more")
)

// tunnel carries the handshake of the association for one epoch.
type tunnel struct {
	*packetConn
	epoch uint8
}

// renewal is when to begin the next epoch.
type renewal struct {
	epoch      uint8     // of the keys that due is about
	due, tried time.Time // by time; the last try
}

// rekey begins the next epoch if it is time to. The association's client does; it sees
// how many records came, too. It is called by the watch.
func (d *data) rekey(now time.Time) {
	k, r := d.use.Load(), &d.renewal
	if k == nil || d.role != record.Client {
		return
	}
	if k.epoch != r.epoch {
		r.epoch, r.due = k.epoch, now.Add(rekeyTime)
	}
	d.opening.Lock()
	records := max(k.sealer.Sealed(), k.opener.Highest())
	d.opening.Unlock()
	spent := records >= d.link.session.transport.config.rekeyRecords && now.Sub(r.tried) >= rekeyRetry
	if spent || !now.Before(r.due) {
		r.tried, r.due = now, now.Add(rekeyRetry)
		d.associate(k.epoch + 1)
	}
}

// associate makes the next association, in a goroutine of its own, unless one is being
// made.
func (d *data) associate(epoch uint8) {
	t := d.link.session.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || d.tunnel.Load() != nil {
		return
	}
	x := &tunnel{epoch: epoch}
	x.packetConn = newPacketConn(t.socket.addr, rekeyQueue, t.socket.pool, t.drops, func(b []byte, _ netip.AddrPort) (int, error) {
		d.link.writeDTLS(append([]byte{recordTunnel, epoch}, b...))
		return len(b), nil
	})
	d.tunnel.Store(x)
	t.wg.Go(func() {
		if err := d.handshake(x); err != nil {
			t.log.Warn("icedtls: keys were not changed; the old ones stay", "peer", d.link.Peer().Short(), "err", err)
		}
		_ = x.Close()
		d.tunnel.Store(nil)
	})
}

func (d *data) handshake(x *tunnel) error {
	l := d.link
	ctx, cancel := context.WithTimeout(l.session.transport.life, rekeyBound)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	conn, err := l.session.newDTLS(x.packetConn, dtls.WithMTU(rekeyMTU))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	k, err := d.begin(conn, x.epoch)
	if err != nil {
		return err
	}
	// The server's last flight may have been lost: it stays to repeat it.
	select {
	case <-k.used:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tunnelled takes a datagram of the association that is being made. The client begins
// it, by a handshake record; what is left of an earlier one begins nothing.
func (d *data) tunnelled(b []byte) {
	if len(b) < 3 {
		return
	}
	epoch, datagram, k := b[1], b[2:], d.use.Load()
	if d.tunnel.Load() == nil && d.role == record.Server && k != nil && epoch == k.epoch+1 &&
		datagram[0] == recordHandshake && d.renewals.take() {
		d.associate(epoch)
	}
	if x := d.tunnel.Load(); x != nil && x.epoch == epoch {
		c := x.pool.get()
		c.n = copy(c.data, datagram)
		x.put(c)
	}
}
