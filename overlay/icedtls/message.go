package icedtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/viasnet/vias/overlay"
)

// The signalling messages. An offer that is admitted gets an answer, one that is
// not gets a refusal; offers are repeated until either comes.
const (
	kindOffer uint8 = 1 + iota
	kindAnswer
	kindRefusal
	// kindCandidates follows an answer: the dialler's candidates, where its offer had
	// none since it had not admitted the peer yet.
	kindCandidates
	// About a Link that there is: see mend.go.
	kindRestart
	kindUpgrade
	kindAgain
	kindPrompt
)

const (
	messageVersion = 3
	// messageAge is how far a message's time may be from ours: it bounds how long
	// an old offer can be played again, and how wrong clocks may be.
	messageAge    = 10 * time.Minute
	maxCandidates = 32
	maxCredential = 256 // RFC 8839, section 5.4: ufrag and pwd
	minPassword   = 22
	minUfrag      = 4
	signContext   = "vias icedtls signal 1\x00"
)

var (
	errMalformed = errors.New("malformed message")
	errNotForUs  = errors.New("message for somebody else")
	errStale     = errors.New("message from another time")
	errWrongKey  = errors.New("message signed by another key")
)

type sessionID [16]byte

// message is what is signed.
type message struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Kind       uint8
	From, To   []byte
	Session    []byte
	Time       int64 // Unix, ms
	Ufrag, Pwd string
	Candidates []candidate
	Credential []byte // overlay.Admission's
	Generation uint32 // of ICE; 0 = the first
}

// candidate is an ICE candidate as far as UDP needs it.
type candidate struct {
	_        struct{} `cbor:",toarray"`
	Kind     uint8
	Addr     []byte // 4 or 16 bytes
	Port     uint16
	Priority uint32
}

const (
	candidateHost uint8 = 1 + iota
	candidateReflexive
	candidateRelay
)

func (c *candidate) addrPort() netip.AddrPort {
	a, _ := netip.AddrFromSlice(c.Addr)
	return netip.AddrPortFrom(a.Unmap(), c.Port)
}

// envelope is what is sent.
type envelope struct {
	_         struct{} `cbor:",toarray"`
	Body      []byte   // a message
	Key       []byte   // the signer's, DER SubjectPublicKeyInfo
	Signature []byte   // ECDSA with SHA-256, ASN.1, over signContext and Body
}

// codec holds the CBOR modes: strict and bounded.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() (codec, error) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return codec{}, fmt.Errorf("cbor: %w", err)
	}
	dec, err := cbor.DecOptions{
		MaxArrayElements:  maxCandidates + 16,
		MaxMapPairs:       16,
		MaxNestedLevels:   4,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		return codec{}, fmt.Errorf("cbor: %w", err)
	}
	return codec{enc, dec}, nil
}

// signer signs as one identity.
type signer struct {
	codec
	key  *ecdsa.PrivateKey
	spki []byte
}

func newSigner(id *overlay.Identity) (*signer, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return &signer{codec: c, key: id.Key(), spki: spki}, nil
}

func digest(body []byte) []byte {
	h := sha256.New()
	h.Write([]byte(signContext))
	h.Write(body)
	return h.Sum(nil)
}

func (s *signer) seal(m *message) ([]byte, error) {
	body, err := s.enc.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest(body))
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	return s.enc.Marshal(envelope{Body: body, Key: s.spki, Signature: sig})
}

// parse reads a message and checks its form, but not yet who signed it.
func (c codec) parse(b []byte) (*envelope, *message, error) {
	if len(b) > overlay.MaxSignal {
		return nil, nil, errMalformed
	}
	var e envelope
	var m message
	if c.dec.Unmarshal(b, &e) != nil || c.dec.Unmarshal(e.Body, &m) != nil || !m.wellFormed() {
		return nil, nil, errMalformed
	}
	return &e, &m, nil
}

func (m *message) wellFormed() bool {
	if m.Version != messageVersion || len(m.From) != 32 || len(m.To) != 32 || len(m.Session) != 16 ||
		len(m.Candidates) > maxCandidates || len(m.Credential) > overlay.MaxCredential {
		return false
	}
	for i := range m.Candidates {
		c := &m.Candidates[i]
		if (len(c.Addr) != 4 && len(c.Addr) != 16) || c.Port == 0 ||
			c.Kind < candidateHost || c.Kind > candidateRelay {
			return false
		}
	}
	if first := m.Kind <= kindCandidates; first && m.Generation != 0 || !first && m.Kind != kindPrompt && m.Generation == 0 {
		return false
	}
	switch m.Kind {
	case kindOffer, kindAnswer, kindRestart, kindUpgrade, kindAgain:
		return len(m.Ufrag) >= minUfrag && len(m.Ufrag) <= maxCredential &&
			len(m.Pwd) >= minPassword && len(m.Pwd) <= maxCredential
	case kindCandidates:
		return m.Ufrag == "" && m.Pwd == "" && len(m.Candidates) > 0 && len(m.Credential) == 0
	case kindRefusal, kindPrompt:
		return m.Ufrag == "" && m.Pwd == "" && len(m.Candidates) == 0 && len(m.Credential) == 0
	}
	return false
}

// addressed checks that the message is for us, from whom the Signaler says, and
// fresh. It costs nothing, so it comes before the signature.
func (m *message) addressed(from, to overlay.PeerID, now time.Time) error {
	if !bytes.Equal(m.From, from[:]) || !bytes.Equal(m.To, to[:]) {
		return errNotForUs
	}
	if age := now.Sub(time.UnixMilli(m.Time)); age > messageAge || age < -messageAge {
		return errStale
	}
	return nil
}

// verify checks that the holder of from's key signed the message.
func (e *envelope) verify(from overlay.PeerID) error {
	if overlay.KeyID(e.Key) != from {
		return errWrongKey
	}
	k, err := x509.ParsePKIXPublicKey(e.Key)
	if err != nil {
		return errWrongKey
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, digest(e.Body), e.Signature) {
		return errWrongKey
	}
	return nil
}
