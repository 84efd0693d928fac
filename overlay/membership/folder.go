package membership

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Files of a member's folder.
const (
	fileAuthorities  = "ca.pem"
	fileCertificates = "member.pem"
	fileLists        = "revoked.pem"
	fileSeen         = "revoked.seen.pem" // the Member's own
)

const (
	// readInterval is how often the folder is read. What has changed counts when it has
	// stayed the same for one interval: a folder is copied file by file.
	readInterval = time.Second
	warnInterval = 24 * time.Hour
)

// Open makes a Member of the folder Config.Dir. Run follows its changes.
func Open(c Config) (*Member, error) {
	m, err := readFolder(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("membership: %w: copy the folder that the authority made for this node to %s", err, c.Dir)
	}
	seen, err := readFile(c.Dir, fileSeen)
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	if _, err := parsePEM(seen, typeList, x509.ParseRevocationList); err != nil {
		return nil, fmt.Errorf("membership: %s: %w: remove it, and copy the newest %s", filepath.Join(c.Dir, fileSeen), err, fileLists)
	}
	m.Lists = slices.Concat(m.Lists, seen)
	x, err := New(c, m)
	if err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, c.Dir)
	}
	return x, nil
}

// readFolder reads what the authority made. There need not be lists.
func readFolder(dir string) (m Material, err error) {
	if m.Authorities, err = os.ReadFile(filepath.Join(dir, fileAuthorities)); err != nil {
		return m, err
	}
	if m.Certificates, err = os.ReadFile(filepath.Join(dir, fileCertificates)); err != nil {
		return m, err
	}
	m.Lists, err = readFile(dir, fileLists)
	return m, err
}

// readFile is os.ReadFile, but a file that is not there is empty.
func readFile(dir, name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (m Material) equal(n Material) bool {
	return bytes.Equal(m.Authorities, n.Authorities) && bytes.Equal(m.Certificates, n.Certificates) && bytes.Equal(m.Lists, n.Lists)
}

// Run follows the folder's changes, keeps the newest lists that were seen, and logs what
// an operator must see to, until ctx ends.
func (x *Member) Run(ctx context.Context) {
	tick := time.NewTicker(readInterval)
	defer tick.Stop()
	f := follower{member: x}
	for {
		f.step(x.config.now())
		select {
		case <-ctx.Done():
			f.fail(f.keep())
			return
		case <-tick.C:
		}
	}
}

// follower is what Run remembers.
type follower struct {
	member        *Member
	read, applied Material
	failed        string // the last error, logged once
	kept          []byte
	warned        []string
	warnedAt      time.Time
}

func (f *follower) step(now time.Time) {
	x := f.member
	m, err := readFolder(x.config.Dir)
	if err == nil && !m.equal(f.applied) && m.equal(f.read) {
		if err = x.Update(m); err == nil {
			f.applied = m
			x.config.Logger.Info("membership read", "dir", x.config.Dir, "until", x.Status().Until)
		}
	}
	f.read = m
	f.fail(errors.Join(err, f.keep()))
	w := x.Status().Warnings(now)
	if !slices.Equal(w, f.warned) || now.Sub(f.warnedAt) >= warnInterval {
		f.warned, f.warnedAt = w, now
		for _, text := range w {
			x.config.Logger.Warn("membership: " + text)
		}
	}
}

// fail logs an error once. What was read before goes on counting.
func (f *follower) fail(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != f.failed {
		f.member.config.Logger.Error("membership: the folder cannot be used; what was read before counts", "dir", f.member.config.Dir, "err", err)
	}
	f.failed = text
}

// keep writes the newest lists down.
func (f *follower) keep() error {
	lists := f.member.Lists()
	if bytes.Equal(lists, f.kept) {
		return nil
	}
	if err := writeFile(filepath.Join(f.member.config.Dir, fileSeen), lists, 0o600); err != nil {
		return err
	}
	f.kept = lists
	return nil
}

// writeFile replaces a file in one step.
func writeFile(path string, text []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
