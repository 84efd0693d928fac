package membership

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Authority says who is a member of a network. It is a folder (authorityfiles.go says
// what is in it) that OpenAuthority locks until Close. Its methods may not be called by
// several goroutines.
//
// Everything that changes something signs the revocation lists anew, and writes the
// folders of all members anew, which are to be copied to their nodes.
type Authority struct {
	dir     string
	network string
	signers []*signer // oldest first: one, or two while they change
	now     func() time.Time
}

// signer is one authority, in the sense of X.509.
type signer struct {
	number      int // in its files' names
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	list        *x509.RevocationList // the last that it signed; nil = none
}

// Issued is what is known of somebody who is or was a member.
type Issued struct {
	ID      overlay.PeerID
	Until   time.Time // the end of its last certificate
	Revoked bool
}

// Network is its name.
func (a *Authority) Network() string { return a.network }

// Authorities are its certificates' names and ends, oldest first.
func (a *Authority) Authorities() (list []AuthorityStatus) {
	for _, s := range a.signers {
		st := AuthorityStatus{Name: s.certificate.Subject.CommonName, Until: s.certificate.NotAfter}
		if s.list != nil {
			st.ListUntil, st.Revoked = s.list.NextUpdate, len(s.list.RevokedCertificateEntries)
		}
		list = append(list, st)
	}
	return list
}

// Issue makes a member of everybody who requests it (see Request), or renews their
// certificates; life 0 = DefaultLife. It is all or nothing as far as requests are wrong:
// nobody is issued anything then.
func (a *Authority) Issue(life time.Duration, requests ...[]byte) ([]overlay.PeerID, error) {
	var ids []overlay.PeerID
	var keys []*ecdsa.PublicKey
	for _, text := range requests {
		key, id, err := parseRequest(text)
		if err != nil {
			return nil, fmt.Errorf("membership: issue: %w", err)
		}
		if a.exists(dirRevoked, id) {
			return nil, fmt.Errorf("membership: issue: %w: %s: a node that shall come back needs a new identity", ErrRevoked, id)
		}
		ids, keys = append(ids, id), append(keys, key)
	}
	for i, id := range ids {
		if err := a.sign(id, keys[i], life); err != nil {
			return nil, fmt.Errorf("membership: issue: %w", err)
		}
	}
	return ids, a.Publish()
}

// Renew issues members new certificates; none given: all.
func (a *Authority) Renew(life time.Duration, ids ...overlay.PeerID) ([]overlay.PeerID, error) {
	err := a.renew(life, &ids)
	if err != nil {
		return nil, fmt.Errorf("membership: renew: %w", err)
	}
	return ids, a.Publish()
}

func (a *Authority) renew(life time.Duration, ids *[]overlay.PeerID) error {
	if len(*ids) == 0 {
		all, err := a.ids(dirIssued)
		if err != nil {
			return err
		}
		*ids = all
	}
	keys := make([]*ecdsa.PublicKey, len(*ids))
	for i, id := range *ids {
		certificates, err := a.certificates(dirIssued, id)
		if err != nil {
			return a.noMember(id)
		}
		if keys[i], _, err = keyOf(certificates[0].PublicKey, nil); err != nil {
			return err
		}
	}
	for i, id := range *ids {
		if err := a.sign(id, keys[i], life); err != nil {
			return err
		}
	}
	return nil
}

func (a *Authority) noMember(id overlay.PeerID) error {
	if a.exists(dirRevoked, id) {
		return fmt.Errorf("%w: %s: a node that shall come back needs a new identity", ErrRevoked, id)
	}
	return fmt.Errorf("%w: %s was never issued a certificate: have it make a request", ErrNotMember, id)
}

// sign makes and writes down a certificate of every signer.
func (a *Authority) sign(id overlay.PeerID, key *ecdsa.PublicKey, life time.Duration) error {
	if life <= 0 {
		life = DefaultLife
	}
	old, err := a.certificates(dirIssued, id)
	if err != nil && a.exists(dirIssued, id) {
		return err
	}
	now := a.now()
	keep := slices.DeleteFunc(old, func(c *x509.Certificate) bool { return now.After(c.NotAfter.Add(Backdate)) })
	for _, s := range a.signers {
		c, err := newMember(a.network, s.certificate, s.key, key, now, life)
		if err != nil {
			return err
		}
		keep = append(keep, c)
	}
	return a.writeCertificates(dirIssued, id, keep)
}

// Revoke ends memberships for ever: every certificate that was issued to these IDs goes on
// the revocation lists.
func (a *Authority) Revoke(ids ...overlay.PeerID) error {
	for _, id := range ids {
		if !a.exists(dirIssued, id) && !a.exists(dirRevoked, id) {
			return fmt.Errorf("membership: revoke: %w", a.noMember(id))
		}
	}
	for _, id := range ids {
		if err := a.moveToRevoked(id); err != nil {
			return fmt.Errorf("membership: revoke: %w", err)
		}
	}
	return a.Publish()
}

// Rotate makes a second authority and issues every member a certificate of it too.
func (a *Authority) Rotate(life time.Duration) error {
	if len(a.signers) > 1 {
		return fmt.Errorf("membership: rotate: a second authority: %w: retire the old one first", ErrExists)
	}
	s, err := a.newSigner(a.signers[len(a.signers)-1].number + 1)
	if err != nil {
		return fmt.Errorf("membership: rotate: %w", err)
	}
	a.signers = append(a.signers, s)
	var all []overlay.PeerID
	if err := a.renew(life, &all); err != nil {
		return fmt.Errorf("membership: rotate: %w", err)
	}
	return a.Publish()
}

// Retire drops the oldest of two authorities, and its key. Nodes that did not get their
// folders since Rotate are out until they do.
func (a *Authority) Retire() error {
	if len(a.signers) < 2 {
		return errors.New("membership: retire: there is one authority only: rotate first")
	}
	newest := a.signers[len(a.signers)-1]
	ids, err := a.ids(dirIssued)
	if err != nil {
		return fmt.Errorf("membership: retire: %w", err)
	}
	for _, id := range ids {
		certificates, err := a.certificates(dirIssued, id)
		if err != nil {
			return fmt.Errorf("membership: retire: %w", err)
		}
		if latest(certificates, newest) == nil {
			return fmt.Errorf("membership: retire: %s has no certificate of the new authority: issue it one, or revoke it", id)
		}
	}
	if err := a.removeSigner(a.signers[0]); err != nil {
		return fmt.Errorf("membership: retire: %w", err)
	}
	a.signers = a.signers[1:]
	return a.Publish()
}

// latest is the last certificate that s signed; nil = none.
func latest(certificates []*x509.Certificate, s *signer) *x509.Certificate {
	for _, c := range slices.Backward(certificates) {
		if string(c.AuthorityKeyId) == string(s.certificate.SubjectKeyId) {
			return c
		}
	}
	return nil
}

// Members are all that were issued a certificate, by ID.
func (a *Authority) Members() ([]Issued, error) {
	var list []Issued
	for _, kind := range []string{dirIssued, dirRevoked} {
		ids, err := a.ids(kind)
		if err != nil {
			return nil, fmt.Errorf("membership: %w", err)
		}
		for _, id := range ids {
			certificates, err := a.certificates(kind, id)
			if err != nil {
				return nil, fmt.Errorf("membership: %w", err)
			}
			x := Issued{ID: id, Revoked: kind == dirRevoked}
			for _, c := range certificates {
				if c.NotAfter.After(x.Until) {
					x.Until = c.NotAfter
				}
			}
			list = append(list, x)
		}
	}
	slices.SortFunc(list, func(a, b Issued) int { return a.ID.Compare(b.ID) })
	return list, nil
}

// Publish signs the revocation lists and writes the members' folders anew.
func (a *Authority) Publish() error {
	if err := a.signLists(); err != nil {
		return fmt.Errorf("membership: revocation lists: %w", err)
	}
	if err := a.writeFolders(); err != nil {
		return fmt.Errorf("membership: folders of the members: %w", err)
	}
	return nil
}

// signLists has every signer list what it signed of those who are revoked, unless that
// has ended anyway.
func (a *Authority) signLists() error {
	revoked, err := a.ids(dirRevoked)
	if err != nil {
		return err
	}
	now := a.now()
	entries := make([][]x509.RevocationListEntry, len(a.signers))
	for _, id := range revoked {
		certificates, err := a.certificates(dirRevoked, id)
		if err != nil {
			return err
		}
		for _, c := range certificates {
			for i, s := range a.signers {
				if string(c.AuthorityKeyId) == string(s.certificate.SubjectKeyId) && now.Before(c.NotAfter.Add(24*time.Hour)) {
					entries[i] = append(entries[i], x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: a.revokedAt(id)})
				}
			}
		}
	}
	for i, s := range a.signers {
		if err := a.signList(s, entries[i], now); err != nil {
			return err
		}
	}
	return nil
}

func (a *Authority) signList(s *signer, entries []x509.RevocationListEntry, now time.Time) error {
	last := s.lastNumber()
	l, err := newList(s.certificate, s.key, entries, last, now)
	if err != nil {
		return err
	}
	s.list = l
	return a.writeList(s)
}
