package membership

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/viasnet/vias/overlay"
)

// ListPolicy is what happens while an authority's revocation list is missing or overdue.
type ListPolicy uint8

// List policies.
const (
	Require ListPolicy = iota // nobody of that authority is admitted
	Warn                      // the last list that was seen counts; the log says so
)

// Config of a Member.
type Config struct {
	// Network is its name. Required.
	Network string
	// Self is who we are. Required.
	Self overlay.PeerID
	// Dir is the folder that the authority made for us: ca.pem, member.pem and
	// revoked.pem. Member writes revoked.seen.pem into it. Required by Open.
	Dir string
	// Lists is what happens without a valid revocation list. Default Require.
	Lists ListPolicy
	// Logger; nil = silent.
	Logger *slog.Logger

	// now is the clock. For tests.
	now func() time.Time
}

// Material is what a Member knows, as PEM.
type Material struct {
	Authorities  []byte // certificates: those whose members are members
	Certificates []byte // our own, one of each authority at most
	Lists        []byte // revocation lists, in any order; may be empty
}

// Member is the rule that those are admitted who show a certificate of membership that an
// authority of the network signed and did not revoke. It implements
// overlay.Admission. Its methods may be called by several goroutines.
type Member struct {
	config Config

	mu          sync.Mutex // guards everything below
	authorities []*trusted
	own         []*x509.Certificate
	credential  []byte
	// generation changes with authorities and lists: what was judged before is judged anew.
	generation uint64
	known      map[overlay.PeerID]*known
	sweepAt    int // size of known at which the expired are dropped
}

// known is what a peer showed that was good.
type known struct {
	shown        [sha256.Size]byte // the credential
	certificates []byte            // in it
	end          time.Time         // of the last of them
	verdict
	generation uint64
}

const firstSweep = 4096

// New makes a Member that holds what m says. Config.Dir is not used.
func New(c Config, m Material) (*Member, error) {
	if c.Network == "" || c.Self.IsZero() {
		return nil, fmt.Errorf("membership: Config.Network or Config.Self is missing")
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	x := &Member{config: c, known: map[overlay.PeerID]*known{}, sweepAt: firstSweep}
	if err := x.Update(m); err != nil {
		return nil, err
	}
	return x, nil
}

// Update replaces what the Member knows, all of it or, with an error, nothing. Lists that
// are older than one that was seen do not count.
func (x *Member) Update(m Material) error {
	authorities, err := x.parseAuthorities(m.Authorities)
	if err != nil {
		return err
	}
	own, err := parsePEM(m.Certificates, typeCertificate, x509.ParseCertificate)
	if err != nil {
		return fmt.Errorf("membership: own certificates: %w", err)
	}
	if len(own) == 0 || len(own) > maxAuthorities {
		return fmt.Errorf("membership: %w: %d own certificates", ErrMalformed, len(own))
	}
	for _, c := range own {
		if id := overlay.KeyID(c.RawSubjectPublicKeyInfo); id != x.config.Self {
			return fmt.Errorf("membership: own certificates: %w: of %s, we are %s", ErrOtherKey, id, x.config.Self)
		}
	}
	lists, err := parsePEM(m.Lists, typeList, x509.ParseRevocationList)
	if err != nil {
		return fmt.Errorf("membership: revocation lists: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range authorities { // what was seen stays seen
		for _, old := range x.authorities {
			if old.certificate.Equal(t.certificate) {
				t.list, t.revoked = old.list, old.revoked
			}
		}
	}
	x.authorities, x.own = authorities, own
	x.takeLocked(lists)
	x.changedLocked()
	return nil
}

func (x *Member) parseAuthorities(text []byte) ([]*trusted, error) {
	list, err := parsePEM(text, typeCertificate, x509.ParseCertificate)
	if err != nil {
		return nil, fmt.Errorf("membership: authorities: %w", err)
	}
	if len(list) == 0 || len(list) > maxAuthorities {
		return nil, fmt.Errorf("membership: %w: %d authorities", ErrMalformed, len(list))
	}
	var all []*trusted
	for _, c := range list {
		t, err := newTrusted(c, x.config.Network)
		if err != nil {
			return nil, fmt.Errorf("membership: authorities: %w", err)
		}
		all = append(all, t)
	}
	return all, nil
}

// takeLocked takes over the lists that are newer, and tells whether there were any.
func (x *Member) takeLocked(lists []*x509.RevocationList) (newer bool) {
	for _, l := range lists {
		for _, t := range x.authorities {
			newer = t.take(l) == nil || newer
		}
	}
	return newer
}

// changedLocked follows a change of authorities, lists or our own certificates.
func (x *Member) changedLocked() {
	x.generation++
	var b []byte
	for _, c := range x.own {
		b = append(b, c.Raw...)
	}
	for _, t := range x.authorities {
		if t.list != nil && len(b)+len(t.list.Raw) <= overlay.MaxCredential {
			b = append(b, t.list.Raw...)
		}
	}
	x.credential = b
}

// Credential is our certificates and, as far as there is room, the newest lists.
func (x *Member) Credential() []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.credential
}

// Certificates are the first part of our Credential: all that one needs who has the lists.
func (x *Member) Certificates() (all []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.own {
		all = append(all, c.Raw...)
	}
	return all
}

// Admit verifies what peer shows, or, if that is nothing, what it showed last.
func (x *Member) Admit(peer overlay.PeerID, credential []byte) error {
	now := x.config.now()
	if len(credential) > 0 && !x.saw(peer, sha256.Sum256(credential)) {
		return x.see(peer, credential, now)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	k := x.known[peer]
	if k == nil {
		return ErrNothingShown
	}
	if k.generation != x.generation || now.Before(k.from) || now.After(k.until) {
		s, err := parseCredential(k.certificates)
		if err != nil {
			return err
		}
		k.verdict, k.generation = judge(x.authorities, x.config.Network, x.config.Lists, peer, s.certificates, now), x.generation
	}
	return k.err
}

func (x *Member) saw(peer overlay.PeerID, shown [sha256.Size]byte) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := x.known[peer]
	return k != nil && k.shown == shown
}

// see judges a credential that is new, and remembers it if it is good.
func (x *Member) see(peer overlay.PeerID, credential []byte, now time.Time) error {
	s, err := parseCredential(credential)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	// Lists speak for themselves, whoever brings them.
	if x.takeLocked(s.lists) {
		x.changedLocked()
	}
	v := judge(x.authorities, x.config.Network, x.config.Lists, peer, s.certificates, now)
	if v.err != nil {
		return v.err
	}
	k := &known{shown: sha256.Sum256(credential), verdict: v, generation: x.generation}
	for _, c := range s.certificates {
		k.certificates = append(k.certificates, c.Raw...)
		if c.NotAfter.After(k.end) {
			k.end = c.NotAfter
		}
	}
	x.known[peer] = k
	x.sweepLocked(now)
	return nil
}

// sweepLocked forgets peers whose certificates have all ended, when there are many.
func (x *Member) sweepLocked(now time.Time) {
	if len(x.known) < x.sweepAt {
		return
	}
	for id, k := range x.known {
		if now.After(k.end) {
			delete(x.known, id)
		}
	}
	x.sweepAt = max(firstSweep, 2*len(x.known))
}

// Lists are the newest revocation lists that were seen, as PEM: what a host keeps, so
// that no older one counts after a restart.
func (x *Member) Lists() []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all [][]byte
	for _, t := range x.authorities {
		if t.list != nil {
			all = append(all, t.list.Raw)
		}
	}
	return encodePEM(typeList, all...)
}
