package tcpsignal

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"

	"github.com/viasnet/vias/overlay"
)

// A connection begins with challenge (server), hello (client), welcome (server).
// Then both send messages and pings; replaced is the server's last word.
const (
	kindChallenge uint8 = 1 + iota // Data: nonce
	kindHello                      // Peer: who; Key, Signature: the proof
	kindWelcome
	kindMessage // Peer: to the server, the receiver; to a client, the sender. Data
	kindPing
	kindPong
	kindReplaced
)

const (
	nonceLength = 32
	// maxFrame is the longest message with what surrounds it.
	maxFrame     = overlay.MaxSignal + 512
	maxKey       = 256
	maxSignature = 128
	helloContext = "vias tcpsignal hello 1\x00"
)

var (
	errMalformed = errors.New("malformed frame")
	errWrongKey  = errors.New("no proof of the ID's key")
)

// frame is what travels: CBOR behind a length of 32 bits, big-endian.
type frame struct {
	_              struct{} `cbor:",toarray"`
	Kind           uint8
	Peer           []byte
	Data           []byte
	Key, Signature []byte
}

func (f *frame) wellFormed() bool {
	peer, proof := len(f.Peer), len(f.Key)+len(f.Signature)
	switch f.Kind {
	case kindChallenge:
		return peer == 0 && len(f.Data) == nonceLength && proof == 0
	case kindHello:
		return peer == 32 && len(f.Data) == 0 && len(f.Key) <= maxKey && len(f.Signature) <= maxSignature
	case kindMessage:
		return peer == 32 && len(f.Data) <= overlay.MaxSignal && proof == 0
	case kindWelcome, kindPing, kindPong, kindReplaced:
		return peer == 0 && len(f.Data) == 0 && proof == 0
	}
	return false
}

// codec holds the CBOR modes: strict and bounded.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() (*codec, error) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("cbor: %w", err)
	}
	dec, err := cbor.DecOptions{
		MaxArrayElements: 16,
		MaxMapPairs:      16,
		MaxNestedLevels:  4,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
	}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("cbor: %w", err)
	}
	return &codec{enc, dec}, nil
}

func (c *codec) append(f *frame) ([]byte, error) {
	var buf bytes.Buffer
	buf.Write(make([]byte, 4))
	body, err := c.enc.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	buf.Write(body)
	b := buf.Bytes()
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	return b, nil
}

func (c *codec) write(w io.Writer, f *frame) error {
	b, err := c.append(f)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// read reads one frame; a malformed one is an error, and the stream is of no more
// use.
func (c *codec) read(r *bufio.Reader) (*frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return nil, errMalformed
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	var f frame
	if c.dec.Unmarshal(body, &f) != nil || !f.wellFormed() {
		return nil, errMalformed
	}
	return &f, nil
}

// readKind reads a frame that has to be of one kind.
func (c *codec) readKind(r *bufio.Reader, kind uint8) (*frame, error) {
	f, err := c.read(r)
	if err != nil {
		return nil, err
	}
	if f.Kind != kind {
		return nil, errMalformed
	}
	return f, nil
}

func helloDigest(nonce []byte) []byte {
	h := sha256.New()
	h.Write([]byte(helloContext))
	h.Write(nonce)
	return h.Sum(nil)
}

// hello proves to hold the identity's key.
func hello(id *overlay.Identity, nonce []byte) (*frame, error) {
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, id.Key(), helloDigest(nonce))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	who := id.ID()
	return &frame{Kind: kindHello, Peer: who[:], Key: spki, Signature: sig}, nil
}

// verify returns who f proves to be.
func (f *frame) verify(nonce []byte) (overlay.PeerID, error) {
	who := overlay.PeerID(f.Peer)
	if overlay.KeyID(f.Key) != who {
		return who, errWrongKey
	}
	k, err := x509.ParsePKIXPublicKey(f.Key)
	if err != nil {
		return who, errWrongKey
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, helloDigest(nonce), f.Signature) {
		return who, errWrongKey
	}
	return who, nil
}
