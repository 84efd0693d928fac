package membership

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/viasnet/vias/overlay"
)

// An Authority's folder:
//
//	ca-N.pem ca-N.key ca-N.crl   the N-th authority: certificate, key (0600), last list
//	issued/ID.pem                every certificate of a member that has not ended
//	revoked/ID.pem               the same of those who were revoked: the lists are made of it
//	nodes/ID/                    what a member's node gets; made anew from all of the above
//	lock                         while a program uses it
const (
	dirIssued  = "issued"
	dirRevoked = "revoked"
	dirNodes   = "nodes"
	fileLock   = "lock"
	// maxNumber bounds how many authorities there ever were.
	maxNumber = 1000
)

// CreateAuthority makes an authority in the folder dir, which must have none.
func CreateAuthority(dir, network string) (*Authority, error) {
	if network == "" {
		return nil, errors.New("membership: an authority needs the network's name")
	}
	for _, d := range []string{"", dirIssued, dirRevoked, dirNodes} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("membership: %w", err)
		}
	}
	a := &Authority{dir: dir, network: network, now: time.Now}
	if err := a.lock(); err != nil {
		return nil, err
	}
	err := a.create()
	if err != nil {
		_ = a.Close()
		return nil, fmt.Errorf("membership: new authority: %w", err)
	}
	return a, nil
}

func (a *Authority) create() error {
	numbers, err := a.numbers()
	if err != nil {
		return err
	}
	if len(numbers) > 0 {
		return fmt.Errorf("in %s: %w: name another folder, or rotate", a.dir, ErrExists)
	}
	s, err := a.newSigner(1)
	if err != nil {
		return err
	}
	a.signers = []*signer{s}
	return a.Publish()
}

// OpenAuthority reads the authority in dir and locks it until Close.
func OpenAuthority(dir string) (*Authority, error) {
	a := &Authority{dir: dir, now: time.Now}
	numbers, err := a.numbers()
	if err == nil && len(numbers) == 0 {
		err = fmt.Errorf("there is no authority in %s: make one, or name its folder", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	if err := a.lock(); err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if err := a.readSigner(n); err != nil {
			_ = a.Close()
			return nil, fmt.Errorf("membership: authority %d: %w: restore it from your backup", n, err)
		}
	}
	return a, nil
}

func (a *Authority) path(elem ...string) string {
	return filepath.Join(append([]string{a.dir}, elem...)...)
}

func (a *Authority) lock() error {
	f, err := os.OpenFile(a.path(fileLock), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("membership: %w: if none does, remove %s", ErrLocked, a.path(fileLock))
	}
	if err != nil {
		return fmt.Errorf("membership: lock: %w", err)
	}
	return f.Close()
}

// Close unlocks the folder.
func (a *Authority) Close() error { return os.Remove(a.path(fileLock)) }

// numbers are those of the authorities that there are, oldest first.
func (a *Authority) numbers() (list []int, err error) {
	names, err := filepath.Glob(a.path("ca-*.pem"))
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(name), "ca-%d.pem", &n); err == nil && n > 0 && n <= maxNumber {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, err
}

func (a *Authority) signerPath(n int, kind string) string {
	return a.path(fmt.Sprintf("ca-%d.%s", n, kind))
}

// newSigner makes an authority and writes it down: the key first, which never is overwritten.
func (a *Authority) newSigner(n int) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &signer{number: n, key: key}
	if s.certificate, err = newAuthority(a.network, key, a.now()); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(a.signerPath(n, "key"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: it is left from an attempt that failed: remove it", err)
	}
	if err != nil {
		return nil, err
	}
	_, err = f.Write(encodePEM(typeKey, der))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = writeFile(a.signerPath(n, "pem"), encodePEM(typeCertificate, s.certificate.Raw), 0o644)
	}
	if err != nil {
		_ = os.Remove(a.signerPath(n, "key"))
		return nil, err
	}
	return s, nil
}

func (a *Authority) readSigner(n int) error {
	s := &signer{number: n}
	certificates, err := readPEM(a.signerPath(n, "pem"), typeCertificate, x509.ParseCertificate)
	if err != nil {
		return err
	}
	s.certificate = certificates[0]
	name, ok := networkOf(s.certificate)
	if !ok || a.network != "" && name != a.network {
		return fmt.Errorf("%s: %w", a.signerPath(n, "pem"), ErrOtherNetwork)
	}
	a.network = name
	if s.key, err = readKey(a.signerPath(n, "key")); err != nil {
		return err
	}
	if !s.key.PublicKey.Equal(s.certificate.PublicKey) {
		return fmt.Errorf("%s: %w", a.signerPath(n, "key"), ErrOtherKey)
	}
	lists, err := readPEM(a.signerPath(n, "crl"), typeList, x509.ParseRevocationList)
	switch {
	case err == nil:
		s.list = lists[0]
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	a.signers = append(a.signers, s)
	return nil
}

// networkOf is the network that an authority's certificate says.
func networkOf(c *x509.Certificate) (string, bool) {
	if len(c.URIs) != 1 || c.URIs[0].Scheme != scheme {
		return "", false
	}
	text, ok := strings.CutPrefix(c.URIs[0].Opaque, "network:")
	name, err := url.PathUnescape(text)
	return name, ok && err == nil && name != ""
}

// readKey reads a key as an identity's is read: nobody else may be able to.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	id, err := overlay.LoadIdentity(path)
	if err != nil {
		return nil, err
	}
	return id.Key(), nil
}

// readPEM reads a file that has one block at least.
func readPEM[T any](path, kind string, parse func([]byte) (T, error)) ([]T, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := parsePEM(text, kind, parse)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w: no PEM block %s", ErrMalformed, kind)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

func (s *signer) lastNumber() *big.Int {
	if s.list == nil {
		return nil
	}
	return s.list.Number
}

func (a *Authority) writeList(s *signer) error {
	return writeFile(a.signerPath(s.number, "crl"), encodePEM(typeList, s.list.Raw), 0o644)
}

// removeSigner: without its certificate the rest is nothing but left over.
func (a *Authority) removeSigner(s *signer) error {
	if err := os.Remove(a.signerPath(s.number, "pem")); err != nil {
		return err
	}
	err := os.Remove(a.signerPath(s.number, "key"))
	if err2 := os.Remove(a.signerPath(s.number, "crl")); !errors.Is(err2, fs.ErrNotExist) {
		err = errors.Join(err, err2)
	}
	return err
}

func (a *Authority) exists(kind string, id overlay.PeerID) bool {
	_, err := os.Stat(a.path(kind, id.String()+".pem"))
	return err == nil
}

// ids are whose certificates are in a folder.
func (a *Authority) ids(kind string) (list []overlay.PeerID, err error) {
	entries, err := os.ReadDir(a.path(kind))
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".pem"); ok {
			if id, err := overlay.ParsePeerID(name); err == nil {
				list = append(list, id)
			}
		}
	}
	return list, err
}

// certificates are those of a member, oldest first: one at least.
func (a *Authority) certificates(kind string, id overlay.PeerID) ([]*x509.Certificate, error) {
	list, err := readPEM(a.path(kind, id.String()+".pem"), typeCertificate, x509.ParseCertificate)
	for _, c := range list {
		if overlay.KeyID(c.RawSubjectPublicKeyInfo) != id {
			return nil, fmt.Errorf("%s: %w", a.path(kind, id.String()+".pem"), ErrOtherKey)
		}
	}
	return list, err
}

func (a *Authority) writeCertificates(kind string, id overlay.PeerID, list []*x509.Certificate) error {
	return writeFile(a.path(kind, id.String()+".pem"), certificatesPEM(list), 0o600)
}

func certificatesPEM(list []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range list {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: typeCertificate, Bytes: c.Raw}))
	}
	return text.Bytes()
}

func (a *Authority) moveToRevoked(id overlay.PeerID) error {
	from, to := a.path(dirIssued, id.String()+".pem"), a.path(dirRevoked, id.String()+".pem")
	if a.exists(dirIssued, id) {
		if err := os.Rename(from, to); err != nil {
			return err
		}
		now := a.now() // the file's time is when it was revoked
		_ = os.Chtimes(to, now, now)
	}
	return os.RemoveAll(a.path(dirNodes, id.String()))
}

func (a *Authority) revokedAt(id overlay.PeerID) time.Time {
	if st, err := os.Stat(a.path(dirRevoked, id.String()+".pem")); err == nil {
		return st.ModTime()
	}
	return a.now()
}

// writeFolders makes what every member's node gets.
func (a *Authority) writeFolders() error {
	ids, err := a.ids(dirIssued)
	if err != nil {
		return err
	}
	var authorities []*x509.Certificate
	var lists [][]byte
	for _, s := range slices.Backward(a.signers) {
		authorities = append(authorities, s.certificate)
		lists = append(lists, s.list.Raw)
	}
	for _, id := range ids {
		issued, err := a.certificates(dirIssued, id)
		if err != nil {
			return err
		}
		var own []*x509.Certificate
		for _, s := range slices.Backward(a.signers) {
			if c := latest(issued, s); c != nil {
				own = append(own, c)
			}
		}
		err = a.writeFolder(id, map[string][]byte{fileAuthorities: certificatesPEM(authorities),
			fileCertificates: certificatesPEM(own), fileLists: encodePEM(typeList, lists...)})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Authority) writeFolder(id overlay.PeerID, files map[string][]byte) error {
	dir := a.Folder(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, text := range files {
		old, err := readFile(dir, name)
		if err == nil && bytes.Equal(old, text) {
			continue
		}
		if err := writeFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Folder is the one to be copied to the member's node.
func (a *Authority) Folder(id overlay.PeerID) string { return a.path(dirNodes, id.String()) }
