package membership

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now().Truncate(time.Second)} }

func (c *clock) reads() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// office is an authority and its clock, which its members go by.
type office struct {
	*Authority
	*clock
	tb testing.TB
}

func newOffice(tb testing.TB, network string) *office {
	tb.Helper()
	a, err := CreateAuthority(filepath.Join(tb.TempDir(), "ca"), network)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = a.Close() })
	c := newClock()
	a.now = c.reads
	return &office{a, c, tb}
}

func newIdentity(tb testing.TB) *overlay.Identity {
	tb.Helper()
	id, err := overlay.NewIdentity()
	require.NoError(tb, err)
	return id
}

// issue makes id a member.
func (o *office) issue(id *overlay.Identity, life time.Duration) {
	o.tb.Helper()
	r, err := Request(id)
	require.NoError(o.tb, err)
	ids, err := o.Issue(life, r)
	require.NoError(o.tb, err)
	require.Equal(o.tb, []overlay.PeerID{id.ID()}, ids)
}

func (o *office) material(id overlay.PeerID) Material {
	o.tb.Helper()
	m, err := readFolder(o.Folder(id))
	require.NoError(o.tb, err)
	return m
}

// member is the rule of a node that is given its folder.
func (o *office) member(id overlay.PeerID, change func(*Config, *Material)) *Member {
	o.tb.Helper()
	c, m := Config{Network: o.network, Self: id, now: o.now}, o.material(id)
	if change != nil {
		change(&c, &m)
	}
	x, err := New(c, m)
	require.NoError(o.tb, err)
	return x
}

// join makes a new member, with its rule.
func (o *office) join() (overlay.PeerID, *Member) {
	o.tb.Helper()
	id := newIdentity(o.tb)
	o.issue(id, 0)
	return id.ID(), o.member(id.ID(), nil)
}

// forged is a certificate that change has changed before signing by by.
func forged(tb testing.TB, key *ecdsa.PublicKey, by *x509.Certificate, byKey *ecdsa.PrivateKey, network string, change func(*x509.Certificate)) []byte {
	tb.Helper()
	now := time.Now()
	by = pretend(by, byKey)
	c, err := newMember(network, by, byKey, key, now, time.Hour)
	require.NoError(tb, err)
	if change != nil {
		change(c)
		c, err = create(c, by, key, byKey)
		require.NoError(tb, err)
	}
	return c.Raw
}

// pretend is by as somebody would make it who has another key.
func pretend(by *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	c := *by
	c.PublicKey = &key.PublicKey
	return &c
}

func newKey(tb testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(tb, err)
	return k
}
