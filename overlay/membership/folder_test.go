package membership

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

// copyFolder copies what the authority made, as an operator does.
func (o *office) copyFolder(id overlay.PeerID, to string) {
	o.tb.Helper()
	for _, name := range []string{fileAuthorities, fileCertificates, fileLists} {
		text, err := os.ReadFile(filepath.Join(o.Folder(id), name))
		require.NoError(o.tb, err)
		require.NoError(o.tb, os.WriteFile(filepath.Join(to, name), text, 0o600))
	}
}

// TestRunFollowsFolder: what is put into the folder counts within the time promised, half
// a folder counts for nothing, and a list that was seen outlives the process.
func TestRunFollowsFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, "blue")
		o.now = time.Now // the bubble's
		dir := t.TempDir()
		id, bad := newIdentity(t), newIdentity(t)
		a := id.ID()
		o.issue(id, 0)
		o.issue(bad, 0)
		shown := o.member(bad.ID(), nil).Credential()
		o.copyFolder(a, dir)
		var log strings.Builder
		config := Config{Network: "blue", Self: a, Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		x, err := Open(config)
		require.NoError(t, err)
		require.NoError(t, x.Admit(bad.ID(), shown))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); x.Run(ctx) }()
		<-time.After(5 * time.Second)

		old, err := os.ReadFile(filepath.Join(dir, fileLists))
		require.NoError(t, err)
		require.NoError(t, o.Revoke(bad.ID()))
		text := o.material(a).Lists
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileLists), text[:len(text)/2], 0o600))
		<-time.After(5 * time.Second)
		require.NoError(t, x.Admit(bad.ID(), nil), "half a file")
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileLists), text, 0o600))
		<-time.After(3 * time.Second)
		synctest.Wait() // the log is the follower's, which may be at it
		require.ErrorIs(t, x.Admit(bad.ID(), nil), ErrRevoked)
		require.Equal(t, 1, strings.Count(log.String(), "cannot be used"), "said once")

		require.NoError(t, os.WriteFile(filepath.Join(dir, fileLists), old, 0o600))
		require.NoError(t, os.Remove(filepath.Join(dir, fileCertificates)))
		<-time.After(5 * time.Second)
		require.ErrorIs(t, x.Admit(bad.ID(), shown), ErrRevoked)
		cancel()
		<-ended
		_, err = Open(config)
		require.ErrorContains(t, err, "copy the folder")
		o.copyFolder(a, dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileLists), old, 0o600))
		x, err = Open(config)
		require.NoError(t, err)
		require.ErrorIs(t, x.Admit(bad.ID(), shown), ErrRevoked, "rolled back while it was down")

		require.NoError(t, os.WriteFile(filepath.Join(dir, fileSeen), []byte("-----BEGIN"), 0o600))
		_, err = Open(config)
		require.ErrorContains(t, err, "remove it")
	})
}

// TestHalfCopiedFolder: a folder that is being copied is whole in each of its files at
// times, and does not count then.
func TestHalfCopiedFolder(t *testing.T) {
	o := newOffice(t, "blue")
	id := newIdentity(t)
	o.issue(id, 0)
	require.NoError(t, o.Rotate(0))
	dir := t.TempDir()
	o.copyFolder(id.ID(), dir)
	x, err := Open(Config{Network: "blue", Self: id.ID(), Dir: dir, now: o.now})
	require.NoError(t, err)
	f := follower{member: x}
	step := func() int { f.step(o.now()); return len(x.Status().Authorities) }
	step()
	require.Equal(t, 2, step())
	whole, err := os.ReadFile(filepath.Join(dir, fileAuthorities))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileAuthorities), encodePEM(typeCertificate, o.signers[0].certificate.Raw), 0o600))
	require.Equal(t, 2, step())
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileAuthorities), whole, 0o600))
	require.Equal(t, 2, step())
	one := encodePEM(typeCertificate, o.signers[1].certificate.Raw)
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileAuthorities), one, 0o600))
	require.Equal(t, 2, step(), "it may not be all yet")
	require.Equal(t, 1, step(), "it stays so: it is meant")
}

// TestRunWarnsAhead: an operator hears of what is due, in time, and once a day.
func TestRunWarnsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, "blue")
		o.now = time.Now
		id := newIdentity(t)
		o.issue(id, 0)
		var log strings.Builder
		x, err := Open(Config{Network: "blue", Self: id.ID(), Dir: o.Folder(id.ID()), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		f := follower{member: x}
		f.step(time.Now())
		require.NotContains(t, log.String(), "WARN")
		<-time.After(DefaultLife*3/4 + time.Hour)
		f.step(time.Now())
		f.step(time.Now())
		require.Equal(t, 1, strings.Count(log.String(), "our certificate ends on"), log.String())
		require.Equal(t, 1, strings.Count(log.String(), "is due on"), log.String())
		<-time.After(warnInterval)
		f.step(time.Now())
		require.Equal(t, 2, strings.Count(log.String(), "our certificate ends on"))
		<-time.After(DefaultLife / 4)
		f.step(time.Now())
		require.Contains(t, log.String(), "we are no member")
		require.Contains(t, log.String(), "is overdue since")
	})
}

// TestAuthorityFolder: an authority is the same after it was closed and opened; its keys
// are the owner's alone; what is not right is refused with what to do.
func TestAuthorityFolder(t *testing.T) {
	o := newOffice(t, "blue / ü")
	id, rule := o.join()
	bad, _ := o.join()
	require.NoError(t, o.Revoke(bad))
	last := o.signers[0].list.Number
	_, err := OpenAuthority(o.dir)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, o.Close())
	a, err := OpenAuthority(o.dir)
	require.NoError(t, err)
	defer a.Close()
	require.Equal(t, "blue / ü", a.Network())
	require.NoError(t, a.Publish())
	require.Positive(t, a.signers[0].list.Number.Cmp(last), "a list's number grows")
	members, err := a.Members()
	require.NoError(t, err)
	require.Len(t, members, 2)
	for _, m := range members {
		require.Equal(t, m.ID == bad, m.Revoked)
	}
	m, err := readFolder(a.Folder(id))
	require.NoError(t, err)
	require.NoError(t, rule.Update(m))
	require.Equal(t, 1, rule.Status().Authorities[0].Revoked)
	st, err := os.Stat(a.signerPath(1, "key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	// Left over by an attempt that failed.
	require.NoError(t, os.WriteFile(a.signerPath(2, "key"), nil, 0o600))
	require.ErrorContains(t, a.Rotate(0), "remove it")
	require.NoError(t, os.Remove(a.signerPath(2, "key")))
	require.NoError(t, a.Rotate(0))
	require.NoError(t, a.Close())
	other := newOffice(t, "green")
	text, err := os.ReadFile(other.signerPath(1, "key"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.signerPath(2, "key"), text, 0o600))
	_, err = OpenAuthority(o.dir)
	require.ErrorIs(t, err, ErrOtherKey)
	require.ErrorContains(t, err, "backup")
	require.NoFileExists(t, a.path(fileLock), "an authority that cannot be opened is not locked")
	a, err = CreateAuthority(o.dir, "blue")
	require.ErrorIs(t, err, ErrExists)
	require.Nil(t, a)
}

// TestRetireLeavesNobody: the old authority cannot go while somebody has nothing else.
func TestRetireLeavesNobody(t *testing.T) {
	o := newOffice(t, "blue")
	id, _ := o.join()
	certificates, err := o.certificates(dirIssued, id)
	require.NoError(t, err)
	require.NoError(t, o.Rotate(0))
	require.NoError(t, o.writeCertificates(dirIssued, id, certificates)) // as if Rotate had failed in the middle
	require.ErrorContains(t, o.Retire(), "has no certificate of the new authority")
	_, err = o.Renew(0)
	require.NoError(t, err)
	require.NoError(t, o.Retire())
	require.NoFileExists(t, o.signerPath(1, "key"))
}
