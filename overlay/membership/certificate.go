package membership

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/viasnet/vias/overlay"
)

// Times of what an Authority signs.
const (
	// DefaultLife is how long a certificate of membership is valid.
	DefaultLife = 90 * 24 * time.Hour
	// AuthorityLife is how long an authority's own is.
	AuthorityLife = 5 * 365 * 24 * time.Hour
	// ListLife is when the next revocation list is due. Every use of an Authority that
	// changes anything signs its lists anew.
	ListLife = 90 * 24 * time.Hour
	// Backdate is how long before it was made anything begins: clocks may be as late.
	Backdate = time.Hour
)

const scheme = "vias"

// networkURI is what an authority's certificate says: which network it is of.
func networkURI(network string) *url.URL {
	return &url.URL{Scheme: scheme, Opaque: "network:" + url.PathEscape(network)}
}

// memberURI is what a member's says. Strangers see it, so the name is not in it.
func memberURI(network string) *url.URL {
	h := sha256.Sum256([]byte("vias network membership 1\x00" + network))
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h[:])
	return &url.URL{Scheme: scheme, Opaque: "member:" + strings.ToLower(text)}
}

// says tells whether uri is all that a certificate says.
func says(c *x509.Certificate, uri *url.URL) bool {
	return len(c.URIs) == 1 && c.URIs[0].String() == uri.String()
}

func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and as long as it looks
	return new(big.Int).SetBytes(b), nil
}

// newAuthority makes an authority's certificate.
func newAuthority(network string, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "vias authority " + serial.Text(36)},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(AuthorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		URIs: []*url.URL{networkURI(network)},
	}
	return create(t, t, &key.PublicKey, key)
}

// newMember makes a certificate of membership.
func newMember(network string, by *x509.Certificate, key *ecdsa.PrivateKey, member *ecdsa.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-Backdate),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		URIs:         []*url.URL{memberURI(network)},

		BasicConstraintsValid: true,
	}
	if t.NotAfter.After(by.NotAfter) {
		t.NotAfter = by.NotAfter
	}
	if t.NotBefore.Before(by.NotBefore) {
		t.NotBefore = by.NotBefore
	}
	return create(t, by, member, key)
}

func create(t, by *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, by, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// newList makes a revocation list. Its number is above last, and above that of lists made
// earlier even where those were lost: it is the time.
func newList(by *x509.Certificate, key *ecdsa.PrivateKey, revoked []x509.RevocationListEntry, last *big.Int, now time.Time) (*x509.RevocationList, error) {
	number := big.NewInt(now.Unix())
	if last != nil && number.Cmp(last) <= 0 {
		number.Add(last, big.NewInt(1))
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		RevokedCertificateEntries: revoked,
		Number:                    number,
		ThisUpdate:                now.Add(-Backdate),
		NextUpdate:                now.Add(ListLife),
	}, by, key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return x509.ParseRevocationList(der)
}

// keyOf is a key that an identity may have, and the peer that it is.
func keyOf(public any, spki []byte) (*ecdsa.PublicKey, overlay.PeerID, error) {
	k, ok := public.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, overlay.PeerID{}, fmt.Errorf("%w: the key is not ECDSA on P-256", ErrMalformed)
	}
	return k, overlay.KeyID(spki), nil
}

// Request is what a node gives to the Authority to become a member: a certificate
// signing request (PKCS #10, as PEM) that shows that it holds its key. It is no secret.
func Request(identity *overlay.Identity) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, identity.Key())
	if err != nil {
		return nil, fmt.Errorf("membership: request: %w", err)
	}
	return encodePEM(typeRequest, der), nil
}

// parseRequest is the reverse of Request.
func parseRequest(text []byte) (*ecdsa.PublicKey, overlay.PeerID, error) {
	list, err := parsePEM(text, typeRequest, x509.ParseCertificateRequest)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%w: %d requests, not one", ErrMalformed, len(list))
	}
	if err != nil {
		return nil, overlay.PeerID{}, err
	}
	r := list[0]
	if err := r.CheckSignature(); err != nil {
		return nil, overlay.PeerID{}, fmt.Errorf("%w: request: %w", ErrMalformed, err)
	}
	return keyOf(r.PublicKey, r.RawSubjectPublicKeyInfo)
}
