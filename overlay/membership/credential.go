package membership

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"

	"github.com/viasnet/vias/overlay"
)

// maxAuthorities is how many a network has at once: one, and two while they change. A
// credential has a certificate and a list of each at most.
const maxAuthorities = 4

// shown is a credential, parsed.
type shown struct {
	certificates []*x509.Certificate
	lists        []*x509.RevocationList
}

// parseCredential reads what a peer shows: certificates and revocation lists, DER,
// one behind the other. It believes nothing yet.
func parseCredential(b []byte) (*shown, error) {
	if len(b) > overlay.MaxCredential {
		return nil, fmt.Errorf("%w: a credential of %d bytes", ErrMalformed, len(b))
	}
	s := &shown{}
	for len(b) > 0 {
		var one asn1.RawValue
		rest, err := asn1.Unmarshal(b, &one)
		if err != nil || one.Class != asn1.ClassUniversal || one.Tag != asn1.TagSequence {
			return nil, fmt.Errorf("%w: a credential that is not X.509", ErrMalformed)
		}
		if len(s.certificates)+len(s.lists) == 2*maxAuthorities {
			return nil, fmt.Errorf("%w: a credential of too many parts", ErrMalformed)
		}
		if err := s.add(one.FullBytes); err != nil {
			return nil, err
		}
		b = rest
	}
	return s, nil
}

func (s *shown) add(der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err == nil {
		s.certificates = append(s.certificates, c)
		return nil
	}
	l, err2 := x509.ParseRevocationList(der)
	if err2 != nil {
		return fmt.Errorf("%w: neither a certificate (%w) nor a revocation list", ErrMalformed, err)
	}
	s.lists = append(s.lists, l)
	return nil
}

// PEM types, RFC 7468.
const (
	typeCertificate = "CERTIFICATE"
	typeList        = "X509 CRL"
	typeRequest     = "CERTIFICATE REQUEST"
	typeKey         = "PRIVATE KEY"
)

// parsePEM reads a file that has blocks of one type only. A file that was cut off in
// the middle is an error.
func parsePEM[T any](text []byte, kind string, parse func([]byte) (T, error)) ([]T, error) {
	blocks, err := decodePEM(text, kind)
	if err != nil {
		return nil, err
	}
	list := make([]T, 0, len(blocks))
	for _, b := range blocks {
		v, err := parse(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, kind, err)
		}
		list = append(list, v)
	}
	return list, nil
}

// decodePEM is parsePEM before it parses.
func decodePEM(text []byte, kind string) (blocks [][]byte, err error) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type != kind {
			return nil, fmt.Errorf("%w: a PEM block %s, not %s", ErrMalformed, b.Type, kind)
		}
		blocks = append(blocks, b.Bytes)
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("%w: a PEM block %s that has no end", ErrMalformed, kind)
	}
	return blocks, nil
}

func encodePEM(kind string, blocks ...[]byte) (text []byte) {
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	return text
}
