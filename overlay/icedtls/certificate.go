package icedtls

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/viasnet/vias/overlay"
)

// newCertificate wraps an identity's key. Nothing in it but the key means anything.
func newCertificate(id *overlay.Identity) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "vias"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, section 4.1.2.5: none
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, id.Key().Public(), id.Key())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.Key()}, nil
}

// certificateKey is a certificate's key as DER SubjectPublicKeyInfo.
func certificateKey(der []byte) ([]byte, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return c.RawSubjectPublicKeyInfo, nil
}
