package ofctl_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/ovstest"
	"github.com/viasnet/vias/ofctl"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a := &authority{key: key, dir: t.TempDir()}
	der := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &key.PublicKey)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PublicKey) []byte {
	t.Helper()
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	require.NoError(t, err)
	return der
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// leaf makes a certificate for 127.0.0.1 and the paths of its two files.
func (a *authority) leaf(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{{127, 0, 0, 1}}}, &k.PublicKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return a.write(t, name+".pem", "CERTIFICATE", der), a.write(t, name+"-key.pem", "PRIVATE KEY", keyDER)
}

// config is for one side: with the certificate of its name, and trusting the authority.
func (a *authority) config(t *testing.T, name string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.leaf(t, name))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// inNetns runs f in a network namespace, in a thread that dies with it.
func inNetns(t *testing.T, name string, f func()) {
	t.Helper()
	err := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, openErr := unix.Open(filepath.Join("/var/run/netns", name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if openErr == nil {
			defer unix.Close(fd)
			openErr = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if openErr == nil {
			f()
		}
		err <- openErr
	}()
	require.NoError(t, <-err)
}

// TestIntegrationDialIn: Open vSwitch dials in over a unix socket, TCP and TLS, is kept as
// wanted, and comes again when its connection is cut.
func TestIntegrationDialIn(t *testing.T) {
	s := ovstest.Start(t)
	s.Bridge("br0")
	ca := newAuthority(t)
	cert, key := ca.leaf(t, "switch")
	s.MustVsctl("set-ssl", key, cert, filepath.Join(ca.dir, "ca.pem"))
	for _, row := range []struct{ listen, dial string }{
		{"unix:" + filepath.Join(s.Dir(), "ctl.sock"), "unix:" + filepath.Join(s.Dir(), "ctl.sock")},
		{"tcp:127.0.0.1:16653", "tcp:127.0.0.1:16653"},
		{"ssl:127.0.0.1:16654", "ssl:127.0.0.1:16654"},
	} {
		cfg := ofctl.Config{TLS: ca.config(t, "controller")}
		var l net.Listener
		var err error
		inNetns(t, s.Netns, func() { l, err = ofctl.Listen(row.listen, cfg) })
		require.NoError(t, err)
		events := make(chan ofctl.KeeperEvent, 100)
		k := ofctl.NewKeeper(ofctl.KeeperConfig{Owner: keptOwner, Notify: func(e ofctl.KeeperEvent) { events <- e }})
		require.NoError(t, k.Want(ofctl.Wanted{Flows: keptFlows(5)}))
		ctx, cancel := context.WithCancel(t.Context())
		conns, done := make(chan *ofctl.Conn, 10), make(chan error, 1)
		go func() {
			done <- ofctl.Serve(ctx, l, cfg, func(ctx context.Context, c *ofctl.Conn) {
				conns <- c
				_ = k.Keep(ctx, c) // told as an event
			})
		}()
		s.MustVsctl("set-controller", "br0", row.dial, "--", "set", "controller", "br0", "max_backoff=1000")
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperConnected, Changed: ofctl.Difference{Added: 5}}, eventually(t, events), row.dial)
		require.NoError(t, (<-conns).Close())
		require.Equal(t, ofctl.KeeperLost, eventually(t, events).Kind)
		require.Equal(t, ofctl.KeeperEvent{Kind: ofctl.KeeperConnected}, eventually(t, events), "nothing was to be changed")
		cancel()
		require.NoError(t, <-done)
		s.MustVsctl("del-controller", "br0")
		s.MustOfctl("del-flows", "br0")
	}
}

// TestIntegrationDialTLS: a switch that listens with TLS, and one that shows a stranger's
// certificate.
func TestIntegrationDialTLS(t *testing.T) {
	s := ovstest.Start(t)
	s.Bridge("br0")
	ca := newAuthority(t)
	cert, key := ca.leaf(t, "switch")
	s.MustVsctl("set-ssl", key, cert, filepath.Join(ca.dir, "ca.pem"), "--", "set-controller", "br0", "pssl:16655:127.0.0.1")
	dial := func(cfg *tls.Config) (c *ofctl.Conn, err error) {
		inNetns(t, s.Netns, func() { c, err = ofctl.Dial(t.Context(), "ssl:127.0.0.1:16655", ofctl.Config{TLS: cfg}) })
		return c, err
	}
	var c *ofctl.Conn
	cfg := ca.config(t, "controller")
	require.Eventually(t, func() (ok bool) {
		var err error
		c, err = dial(cfg)
		return err == nil
	}, 10*time.Second, 50*time.Millisecond, "the switch listens at last")
	require.NotZero(t, c.Features().DatapathID)
	require.NoError(t, c.Close())
	_, err := dial(nil)
	require.ErrorContains(t, err, "Config.TLS is missing")
	_, err = dial(newAuthority(t).config(t, "other"))
	require.ErrorContains(t, err, "certificate")
}
