package membership

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/viasnet/vias/overlay"
)

// trusted is an authority and the newest list of it that was seen.
type trusted struct {
	certificate *x509.Certificate
	pool        *x509.CertPool
	list        *x509.RevocationList // nil = none
	revoked     map[string]struct{}  // list's serial numbers
}

// newTrusted checks that c is an authority of the network.
func newTrusted(c *x509.Certificate, network string) (*trusted, error) {
	switch {
	case !c.IsCA || !c.BasicConstraintsValid:
		return nil, fmt.Errorf("%w: %q is no authority's certificate", ErrMalformed, c.Subject.CommonName)
	case !says(c, networkURI(network)):
		return nil, fmt.Errorf("%w: the authority %q is not of network %q", ErrOtherNetwork, c.Subject.CommonName, network)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return nil, fmt.Errorf("%w: authority %q: %w", ErrMalformed, c.Subject.CommonName, err)
	}
	t := &trusted{certificate: c, pool: x509.NewCertPool()}
	t.pool.AddCert(c)
	return t, nil
}

// signed tells whether the authority says to have signed something.
func (t *trusted) signed(issuer, keyID []byte) bool {
	return bytes.Equal(issuer, t.certificate.RawSubject) && bytes.Equal(keyID, t.certificate.SubjectKeyId)
}

var errNotNewer = errors.New("not newer")

// take takes a list over if it is the authority's and newer than the one there is.
func (t *trusted) take(l *x509.RevocationList) error {
	switch {
	case !t.signed(l.RawIssuer, l.AuthorityKeyId):
		return ErrOtherAuthority
	case l.Number == nil || l.NextUpdate.IsZero():
		return fmt.Errorf("%w: a revocation list without number or end", ErrMalformed)
	case t.list != nil && l.Number.Cmp(t.list.Number) <= 0:
		return errNotNewer
	}
	if err := l.CheckSignatureFrom(t.certificate); err != nil {
		return fmt.Errorf("%w: revocation list: %w", ErrOtherAuthority, err)
	}
	t.list, t.revoked = l, make(map[string]struct{}, len(l.RevokedCertificateEntries))
	for i := range l.RevokedCertificateEntries {
		t.revoked[string(l.RevokedCertificateEntries[i].SerialNumber.Bytes())] = struct{}{}
	}
	return nil
}

// listEnd is until when the list counts; zero: there is none.
func (t *trusted) listEnd() time.Time {
	if t.list == nil {
		return time.Time{}
	}
	return t.list.NextUpdate
}

// check tells until when c makes peer a member, as seen at now.
func (t *trusted) check(c *x509.Certificate, network string, lists ListPolicy, now time.Time) (until time.Time, err error) {
	ca := t.certificate
	switch {
	case c.IsCA:
		return until, fmt.Errorf("%w: an authority is no member", ErrMalformed)
	case !says(c, memberURI(network)):
		return until, ErrOtherNetwork
	case now.After(c.NotAfter) || now.After(ca.NotAfter):
		return until, fmt.Errorf("%w: at %s", ErrExpired, earlier(c.NotAfter, ca.NotAfter).UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore) || now.Before(ca.NotBefore):
		return until, fmt.Errorf("%w: it begins at %s", ErrNotYetValid, c.NotBefore.UTC().Format(time.RFC3339))
	}
	_, err = c.Verify(x509.VerifyOptions{Roots: t.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return until, fmt.Errorf("%w: %w", ErrOtherAuthority, err)
	}
	if _, ok := t.revoked[string(c.SerialNumber.Bytes())]; ok {
		return until, ErrRevoked
	}
	until = earlier(c.NotAfter, ca.NotAfter)
	if lists == Require {
		if now.After(t.listEnd()) {
			return time.Time{}, ErrNoList
		}
		until = earlier(until, t.listEnd())
	}
	return until, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// verdict is what a credential is worth.
type verdict struct {
	from, until time.Time // it holds; both included
	err         error
}

// judge finds the certificate that makes peer a member for longest.
func judge(cas []*trusted, network string, lists ListPolicy, peer overlay.PeerID, shown []*x509.Certificate, now time.Time) verdict {
	best := verdict{from: now, err: ErrNothingShown}
	for _, c := range shown {
		until, err := judgeOne(cas, network, lists, peer, c, now)
		switch {
		case err != nil && best.err != nil && rank(err) > rank(best.err):
			best.err = err
		case err == nil && until.After(best.until):
			best.until, best.err = until, nil
		}
	}
	return best
}

func judgeOne(cas []*trusted, network string, lists ListPolicy, peer overlay.PeerID, c *x509.Certificate, now time.Time) (time.Time, error) {
	_, id, err := keyOf(c.PublicKey, c.RawSubjectPublicKeyInfo)
	if err != nil {
		return time.Time{}, err
	}
	if id != peer {
		return time.Time{}, fmt.Errorf("%w: of %s", ErrOtherKey, id.Short())
	}
	for _, t := range cas {
		if t.signed(c.RawIssuer, c.AuthorityKeyId) {
			return t.check(c, network, lists, now)
		}
	}
	if !says(c, memberURI(network)) {
		return time.Time{}, ErrOtherNetwork
	}
	return time.Time{}, ErrOtherAuthority
}

// rank orders reasons: of several certificates that are no good, the one that was
// nearest says most.
func rank(err error) int {
	for i, e := range []error{ErrNothingShown, ErrMalformed, ErrOtherKey, ErrOtherNetwork, ErrOtherAuthority, ErrExpired, ErrNotYetValid, ErrNoList, ErrRevoked} {
		if errors.Is(err, e) {
			return i
		}
	}
	return 0
}
