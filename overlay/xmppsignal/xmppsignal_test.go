package xmppsignal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/internal/leaktest"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
	"github.com/viasnet/vias/overlay/sealed"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const (
	domain   = "vias.test"
	password = "of all accounts"
)

// prosody is a real server, in a directory of the test's own.
type prosody struct {
	dir, addr string
	tls       *tls.Config
}

const prosodyConfig = `
run_as_root = true
daemonize = false
pidfile = %[1]q
data_path = %[2]q
log = { warn = %[3]q }
interfaces = { "127.0.0.1" }
c2s_ports = { %[4]d }
c2s_require_encryption = true
s2s_ports = { }
modules_enabled = { "saslauth"; "tls"; "ping"; "presence"; "message"; "iq" }
modules_disabled = { "s2s"; "offline" }
authentication = "internal_plain"
storage = "internal"
ssl = { certificate = %[5]q; key = %[6]q }
VirtualHost %[7]q
`

// newProsody writes the server's configuration and certificate.
func newProsody(t testing.TB) *prosody {
	t.Helper()
	itest.Require(t, "prosody")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &prosody{dir: t.TempDir(), addr: ln.Addr().String()}
	require.NoError(t, ln.Close())
	cert, key := filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem")
	p.certify(t, cert, key)
	require.NoError(t, os.MkdirAll(p.accounts(), 0o700))
	_, port, err := net.SplitHostPort(p.addr)
	require.NoError(t, err)
	var number int
	_, err = fmt.Sscan(port, &number)
	require.NoError(t, err)
	text := fmt.Sprintf(prosodyConfig, filepath.Join(p.dir, "pid"), filepath.Join(p.dir, "data"),
		filepath.Join(p.dir, "log"), number, cert, key, domain)
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "prosody.cfg.lua"), []byte(text), 0o600))
	return p
}

// accounts is where prosody looks for them.
func (p *prosody) accounts() string {
	return filepath.Join(p.dir, "data", strings.ReplaceAll(domain, ".", "%2e"), "accounts")
}

func (p *prosody) certify(t testing.TB, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	p.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// start runs the server until the test ends, or until stop is called.
func (p *prosody) start(t testing.TB) (stop func()) {
	t.Helper()
	cmd := exec.Command("prosody", "--config", filepath.Join(p.dir, "prosody.cfg.lua"), "-F")
	cmd.Dir = p.dir
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := deadline(t); ; {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			_ = c.Close()
			return stop
		}
		select {
		case <-tick.C:
		case <-end.Done():
			text, _ := os.ReadFile(filepath.Join(p.dir, "log"))
			require.FailNow(t, "prosody does not listen", "%s", text)
		}
	}
}

func (p *prosody) config() Config {
	return Config{Server: p.addr, Domain: domain, Password: password, Network: "blue", TLS: p.tls}
}

// open opens a Signaler whose account is made first.
func (p *prosody) open(ctx context.Context, id *overlay.Identity) (overlay.Signaler, error) {
	account := fmt.Sprintf("return { [\"password\"] = %q; };\n", password)
	if err := os.WriteFile(filepath.Join(p.accounts(), id.ID().String()+".dat"), []byte(account), 0o600); err != nil {
		return nil, err
	}
	return Open(p.config())(ctx, id)
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestIntegrationSignaler(t *testing.T) {
	p := newProsody(t)
	p.start(t)
	t.Run("plain", func(t *testing.T) {
		overlaytest.RunSignaler(t, func(*testing.T) overlaytest.SignalHarness {
			return overlaytest.SignalHarness{Open: p.open}
		})
	})
	t.Run("sealed", func(t *testing.T) {
		overlaytest.RunSignaler(t, func(*testing.T) overlaytest.SignalHarness {
			return overlaytest.SignalHarness{Open: sealed.Open(p.open, sealed.Config{}), MaxMessage: sealed.MaxMessage}
		})
	})
}

// tell sends until the message arrives.
func tell(t testing.TB, a, b overlay.Signaler, to overlay.PeerID, msg string) {
	t.Helper()
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		for {
			_, got, err := b.Recv(deadline(t))
			if err != nil || string(got) == msg {
				return
			}
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := deadline(t); ; {
		require.NoError(t, a.Send(end, to, []byte(msg)))
		select {
		case <-arrived:
			return
		case <-tick.C:
		}
	}
}

func TestIntegrationReconnect(t *testing.T) {
	p := newProsody(t)
	stop := p.start(t)
	ida, idb := overlaytest.NewIdentity(t), overlaytest.NewIdentity(t)
	a, err := p.open(t.Context(), ida)
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.Close() })
	b, err := p.open(t.Context(), idb)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	tell(t, a, b, idb.ID(), "one")
	stop()
	for { // until a knows
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		err := a.Send(ctx, idb.ID(), []byte("lost"))
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
	}
	p.start(t)
	tell(t, a, b, idb.ID(), "two") // Send waits for the server
	tell(t, b, a, ida.ID(), "three")
}

// A server whose certificate is another's gets no password; a password that is wrong
// says so.
func TestIntegrationRefused(t *testing.T) {
	p := newProsody(t)
	p.start(t)
	id := overlaytest.NewIdentity(t)
	first, err := p.open(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, first.Close())
	for want, change := range map[string]func(*Config){
		"certificate": func(c *Config) { c.TLS = nil },
		"log in: The": func(c *Config) { c.Password = "a guess" },
	} {
		c := p.config()
		change(&c)
		s, err := Open(c)(t.Context(), id)
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		for end := deadline(t); ; { // the first tries may still be under way
			require.NoError(t, end.Err())
			ctx, cancel := context.WithTimeout(end, 200*time.Millisecond)
			err = s.Send(ctx, overlay.PeerID{1}, []byte("x"))
			cancel()
			require.Error(t, err)
			if strings.Contains(err.Error(), want) {
				break
			}
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{Server: "h:5222", Domain: "d", Password: "p", Network: "n"}
	for want, change := range map[string]func(*Config){
		"no HOST:PORT":        func(c *Config) { c.Server = "h" },
		"Domain is missing":   func(c *Config) { c.Domain = "" },
		"Password is missing": func(c *Config) { c.Password = "" },
		"Network has to":      func(c *Config) { c.Network = "" },
		"Config.Domain: ":     func(c *Config) { c.Domain = "a b/\x00" },
	} {
		c := good
		change(&c)
		_, err := Open(c)(t.Context(), overlaytest.NewIdentity(t))
		require.ErrorContains(t, err, want)
	}
}
