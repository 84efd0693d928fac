package overlay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

func TestPeerIDText(t *testing.T) {
	id, err := overlay.NewIdentity()
	require.NoError(t, err)
	s := id.ID().String()
	require.Len(t, s, 52)
	require.Equal(t, strings.ToLower(s), s)
	require.Equal(t, s[:8], id.ID().Short())
	for _, text := range []string{s, strings.ToUpper(s)} {
		got, err := overlay.ParsePeerID(text)
		require.NoError(t, err)
		require.Equal(t, id.ID(), got)
	}
	type doc struct{ Peer overlay.PeerID }
	b, err := json.Marshal(doc{id.ID()})
	require.NoError(t, err)
	require.Equal(t, `{"Peer":"`+s+`"}`, string(b))
	var back doc
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, id.ID(), back.Peer)
	require.Error(t, json.Unmarshal([]byte(`{"Peer":"nobody"}`), &back))
	require.Equal(t, id.ID(), back.Peer, "a failed UnmarshalText changes nothing")
}

func TestPeerIDRejects(t *testing.T) {
	zero := overlay.PeerID{}.String()
	for name, s := range map[string]string{
		"empty":      "",
		"short":      zero[1:],
		"long":       zero + "a",
		"padding":    zero + "====",
		"alphabet":   "1" + zero[1:],
		"newline":    zero[:51] + "\n",
		"spare bits": zero[:51] + "b",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := overlay.ParsePeerID(s)
			require.ErrorContains(t, err, "not a peer ID")
		})
	}
}

func FuzzParsePeerID(f *testing.F) {
	f.Add(overlay.PeerID{}.String())
	f.Add(overlay.KeyID([]byte("key")).String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := overlay.ParsePeerID(s)
		if err == nil {
			require.True(t, strings.EqualFold(s, id.String()), "%q read as %q", s, id)
		}
	})
}

func TestPeerIDOrder(t *testing.T) {
	low, high := overlay.PeerID{}, overlay.PeerID{31: 1}
	require.Negative(t, low.Compare(high))
	require.Positive(t, high.Compare(low))
	require.Zero(t, low.Compare(low))
	require.True(t, low.IsZero())
	require.False(t, high.IsZero())
}

func TestIDIsHashOfKey(t *testing.T) {
	id, err := overlay.NewIdentity()
	require.NoError(t, err)
	spki, err := x509.MarshalPKIXPublicKey(id.Key().Public())
	require.NoError(t, err)
	require.Equal(t, overlay.KeyID(spki), id.ID())
}

func TestIdentityFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id.pem")
	made, err := overlay.OpenIdentity(path)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), st.Mode().Perm())
	}
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, open := range []func(string) (*overlay.Identity, error){overlay.LoadIdentity, overlay.OpenIdentity} {
		got, err := open(path)
		require.NoError(t, err)
		require.Equal(t, made.ID(), got.ID())
		require.True(t, made.Key().Equal(got.Key()))
	}
	_, err = overlay.CreateIdentity(path)
	require.ErrorIs(t, err, fs.ErrExist)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after, "an identity is never overwritten")
}

func TestIdentityReadableByOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no mode bits on Windows")
	}
	path := filepath.Join(t.TempDir(), "id.pem")
	_, err := overlay.CreateIdentity(path)
	require.NoError(t, err)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := overlay.OpenIdentity(path)
		require.ErrorContains(t, err, "can be read by others", "mode %04o", mode)
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := overlay.OpenIdentity(path)
		require.NoError(t, err, "mode %04o", mode)
	}
}

func TestIdentityCorrupt(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	require.NoError(t, err)
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":       {"", "no PEM block"},
		"no PEM":      {"hello", "no PEM block"},
		"certificate": {encode("CERTIFICATE", der), "no PEM block PRIVATE KEY"},
		"no key":      {encode("PRIVATE KEY", []byte("junk")), "id.pem"},
		"P-384":       {encode("PRIVATE KEY", der), "not an ECDSA P-256 key"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "id.pem")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			_, err := overlay.OpenIdentity(path)
			require.ErrorContains(t, err, c.want)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.text, string(got), "a file that cannot be read is left alone")
		})
	}
}

func TestIdentityNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "id.pem")
	_, err := overlay.LoadIdentity(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = overlay.OpenIdentity(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestErrors(t *testing.T) {
	require.ErrorIs(t, overlay.ErrClosed, net.ErrClosed)
	e := error(&overlay.OpError{Op: "dial", Peer: overlay.PeerID{}, Err: overlay.ErrRefused})
	require.ErrorIs(t, e, overlay.ErrRefused)
	require.Equal(t, "overlay: dial: "+overlay.ErrRefused.Error(), e.Error())
	e = &overlay.OpError{Op: "dial", Peer: overlay.PeerID{1}, Err: errors.New("why")}
	require.Equal(t, "overlay: dial aeaaaaaa: why", e.Error())
	require.Equal(t, "memory", overlay.PathMemory.String())
	require.Equal(t, "memory", overlay.PathKind(200).String())
}
