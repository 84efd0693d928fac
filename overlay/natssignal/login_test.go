package natssignal_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/natssignal"
	"github.com/viasnet/vias/overlay/natssignal/embedded"
)

// file writes a secret.
func file(t testing.TB, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

func key(t testing.TB, make func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	pair, err := make()
	require.NoError(t, err)
	public, err = pair.PublicKey()
	require.NoError(t, err)
	seed, err = pair.Seed()
	require.NoError(t, err)
	return pair, public, seed
}

// refused: config gets no connection, and says why.
func refused(t testing.TB, config natssignal.Config) {
	t.Helper()
	p := connect(t, config)
	ctx, cancel := timeoutOf(300 * time.Millisecond)
	defer cancel()
	require.Error(t, p.Send(ctx, p.id.ID(), []byte("x")))
	require.Zero(t, p.Stats().Connected)
}

func TestNKey(t *testing.T) {
	_, public, seed := key(t, nkeys.CreateUser)
	_, _, wrong := key(t, nkeys.CreateUser)
	s := open(t, server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})
	c := blue(s.ClientURL())
	refused(t, c)
	c.NKey = file(t, wrong)
	refused(t, c)
	c.NKey = file(t, seed)
	a, b := connect(t, c), connect(t, c)
	a.tell(t, b, "by nkey")
}

func TestCredentials(t *testing.T) {
	operator, operatorKey, _ := key(t, nkeys.CreateOperator)
	account, accountKey, _ := key(t, nkeys.CreateAccount)
	_, userKey, seed := key(t, nkeys.CreateUser)
	accountJWT, err := jwt.NewAccountClaims(accountKey).Encode(operator)
	require.NoError(t, err)
	userJWT, err := jwt.NewUserClaims(userKey).Encode(account)
	require.NoError(t, err)
	creds, err := jwt.FormatUserConfig(userJWT, seed)
	require.NoError(t, err)
	resolver := &server.MemAccResolver{}
	require.NoError(t, resolver.Store(accountKey, accountJWT))
	s := open(t, server.Options{TrustedKeys: []string{operatorKey}, AccountResolver: resolver})
	c := blue(s.ClientURL())
	refused(t, c)
	c.Credentials = file(t, creds)
	a, b := connect(t, c), connect(t, c)
	a.tell(t, b, "by credentials")
}

func TestPassword(t *testing.T) {
	s := open(t, server.Options{Username: "vias", Password: "secret"})
	c := blue(s.ClientURL())
	c.User, c.Password = "vias", "guess"
	refused(t, c)
	c.Password = "secret"
	a := connect(t, c)
	a.tell(t, a, "by password")

	s = open(t, server.Options{Authorization: "token"})
	c = blue(s.ClientURL())
	c.Token = "guess"
	refused(t, c)
	c.Token = "token"
	a = connect(t, c)
	a.tell(t, a, "by token")
}

// With TLS a server that cannot show the right certificate, or no TLS, gets nothing.
func TestTLS(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	s := serve(t, embedded.Config{TLS: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}, MinVersion: tls.VersionTLS12,
	}})
	c := blue(s.URL())
	refused(t, c) // the system does not know that authority
	c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	a, b := connect(t, c), connect(t, c)
	a.tell(t, b, "over TLS")
	inside := connect(t, natssignal.Config{InProcess: s, Network: "blue"})
	inside.tell(t, b, "from inside")

	c.Servers = []string{serve(t, embedded.Config{}).URL()}
	refused(t, c) // no TLS there
}
