package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

// vector is the test vector of docs/signalling.md; everything is in hexadecimal, but for
// times.
type vector map[string]string

func readVector(t testing.TB) vector {
	t.Helper()
	b, err := os.ReadFile("testdata/vector.json")
	require.NoError(t, err)
	var v vector
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

func (v vector) bytes(t testing.TB, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v[name])
	require.NoError(t, err)
	require.NotEmpty(t, b, name)
	return b
}

func (v vector) number(t testing.TB, name string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(v[name], 10, 64)
	require.NoError(t, err)
	return n
}

func (v vector) author(t testing.TB, who string) *author {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), v.bytes(t, who+"_identity_scalar"))
	require.NoError(t, err)
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	require.NoError(t, err)
	a := &author{id: overlay.KeyID(spki), key: k, identity: spki}
	require.Equal(t, v.bytes(t, who+"_id"), a.id[:])
	return a
}

func TestVector(t *testing.T) {
	v := readVector(t)
	a, b := v.author(t, "a"), v.author(t, "b")
	k, err := kem().NewPrivateKey(v.bytes(t, "b_x25519_private"))
	require.NoError(t, err)
	key := newPrivateKey(k, 0)
	require.Equal(t, v.bytes(t, "b_x25519_public"), key.raw[:])
	require.Equal(t, v.bytes(t, "ask"), askPacket([nonceLength]byte(v.bytes(t, "nonce"))))
	require.Equal(t, v.bytes(t, "stale"), stalePacket(key.name))

	kind, rest, err := parsePacket(v.bytes(t, "card"))
	require.NoError(t, err)
	require.EqualValues(t, kindCard, kind)
	require.Equal(t, v.bytes(t, "nonce"), rest[:nonceLength])
	told, clock, err := openCard(b.id, a.id, rest)
	require.NoError(t, err)
	require.Equal(t, key.raw, told.raw)
	require.Equal(t, v.number(t, "card_clock"), clock)

	packet := v.bytes(t, "sealed")
	kind, _, err = parsePacket(packet)
	require.NoError(t, err)
	require.EqualValues(t, kindSealed, kind)
	m, err := key.open(a.id, b.id, packet)
	require.NoError(t, err)
	require.Equal(t, v.bytes(t, "message_id"), m.id[:])
	require.Equal(t, v.number(t, "stamp"), m.stamp)
	require.Equal(t, v.bytes(t, "a_x25519_public"), m.reply[:])
	require.Equal(t, v.number(t, "clock"), m.clock)
	require.Equal(t, v.bytes(t, "body"), m.body)
	require.Equal(t, v.bytes(t, "content"), m.append(nil), "there is one way to write it")

	require.Equal(t, v.bytes(t, "content"), openByHand(t, v, a.id, b.id, packet), "as RFC 9180 writes it")
}

// openByHand decrypts without crypto/hpke.
func openByHand(t testing.TB, v vector, from, to overlay.PeerID, packet []byte) []byte {
	t.Helper()
	private, err := ecdh.X25519().NewPrivateKey(v.bytes(t, "b_x25519_private"))
	require.NoError(t, err)
	enc, ciphertext := packet[12:44], packet[44:]
	ephemeral, err := ecdh.X25519().NewPublicKey(enc)
	require.NoError(t, err)
	dh, err := private.ECDH(ephemeral)
	require.NoError(t, err)
	extract := func(suite, salt, label string, ikm []byte) []byte {
		k, err := hkdf.Extract(sha256.New, slices.Concat([]byte("HPKE-v1"+suite+label), ikm), []byte(salt))
		require.NoError(t, err)
		return k
	}
	expand := func(suite string, prk []byte, label string, info []byte, n int) []byte {
		l := binary.BigEndian.AppendUint16(nil, uint16(n))
		k, err := hkdf.Expand(sha256.New, prk, string(slices.Concat(l, []byte("HPKE-v1"+suite+label), info)), n)
		require.NoError(t, err)
		return k
	}
	const kemSuite, suite = "KEM\x00\x20", "HPKE\x00\x20\x00\x01\x00\x01"
	shared := expand(kemSuite, extract(kemSuite, "", "eae_prk", dh), "shared_secret",
		slices.Concat(enc, private.PublicKey().Bytes()), 32)
	info := slices.Concat([]byte("vias sealed message 1\x00"), from[:], to[:])
	schedule := slices.Concat([]byte{0}, extract(suite, "", "psk_id_hash", nil), extract(suite, "", "info_hash", info))
	secret := extract(suite, string(shared), "secret", nil)
	block, err := aes.NewCipher(expand(suite, secret, "key", schedule, 16))
	require.NoError(t, err)
	gcm, err := cipher.NewGCM(block)
	require.NoError(t, err)
	plain, err := gcm.Open(nil, expand(suite, secret, "base_nonce", schedule, 12), ciphertext, packet[:12])
	require.NoError(t, err)
	return plain
}

// What parses is what would be written, and nothing panics.
func FuzzPacket(f *testing.F) {
	v := readVector(f)
	for _, name := range []string{"ask", "card", "sealed", "stale"} {
		f.Add(v.bytes(f, name))
	}
	f.Add([]byte(magic))
	k, err := kem().NewPrivateKey(v.bytes(f, "b_x25519_private"))
	require.NoError(f, err)
	key := newPrivateKey(k, 0)
	a, b := overlay.PeerID(v.bytes(f, "a_id")), overlay.PeerID(v.bytes(f, "b_id"))
	real := string(v.bytes(f, "sealed"))
	card := string(v.bytes(f, "card"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		kind, rest, err := parsePacket(packet)
		if err != nil {
			return
		}
		switch kind {
		case kindCard:
			_, _, err := openCard(b, a, rest)
			require.Equal(t, string(packet) == card, err == nil, "a fuzzer does not sign")
		case kindSealed:
			_, err := key.open(a, b, packet)
			require.Equal(t, string(packet) == real, err == nil, "nor encrypt")
		}
	})
}

func FuzzContent(f *testing.F) {
	f.Add(readVector(f).bytes(f, "content"))
	f.Add(make([]byte, padding))
	padded := readVector(f).bytes(f, "content")
	padded[len(padded)-1] = 1 // there is padding there
	f.Add(padded)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseContent(b)
		if err == nil && len(b)%padding == 0 {
			require.Equal(t, b, m.append(nil))
		}
	})
}
