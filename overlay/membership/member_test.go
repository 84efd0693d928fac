package membership

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay"
)

func TestMemberAdmitsMember(t *testing.T) {
	o := newOffice(t, "blue")
	a, at := o.join()
	b, bt := o.join()
	require.ErrorIs(t, at.Admit(b, nil), ErrNothingShown)
	require.NoError(t, at.Admit(b, bt.Credential()))
	require.NoError(t, at.Admit(b, nil), "it is remembered")
	require.NoError(t, at.Admit(b, bt.Credential()), "shown again")
	require.NoError(t, bt.Admit(a, at.Credential()))
	require.NoError(t, at.Status().Err)
	require.Empty(t, at.Status().Warnings(o.now()))
	require.NotContains(t, string(at.Credential()), "blue", "strangers see it")
}

// TestMemberRefuses: each of these is refused for the reason given, and changes nothing
// about what the peer had shown before.
func TestMemberRefuses(t *testing.T) {
	o, other := newOffice(t, "blue"), newOffice(t, "blue")
	green := newOffice(t, "green")
	id := newIdentity(t)
	o.issue(id, 0)
	other.issue(id, 0)
	green.issue(id, 0)
	peer, public := id.ID(), &id.Key().PublicKey
	good := o.member(peer, nil).Credential()
	stranger, strangerRule := o.join()
	by := o.signers[0]
	make := func(change func(*x509.Certificate)) []byte {
		return forged(t, public, by.certificate, by.key, "blue", change)
	}
	p384 := newKey(t, elliptic.P384())
	selfSigned := forged(t, public, by.certificate, id.Key(), "blue", nil)

	for name, c := range map[string]struct {
		shown []byte
		want  error
	}{
		"nothing":              {nil, ErrNothingShown},
		"garbage":              {[]byte("garbage"), ErrMalformed},
		"not X.509":            {[]byte{0x30, 0}, ErrMalformed},
		"cut off":              {good[:len(good)-1], ErrMalformed},
		"something behind":     {append(slices.Clone(good), 0), ErrMalformed},
		"too long":             {bytes.Repeat(good, 1+overlay.MaxCredential/len(good)), ErrMalformed},
		"too many":             {bytes.Repeat(make(nil), 2*maxAuthorities+1), ErrMalformed},
		"a list alone":         {o.signers[0].list.Raw, ErrNothingShown},
		"another's, replayed":  {strangerRule.Credential(), ErrOtherKey},
		"other authority":      {other.member(peer, nil).Credential(), ErrOtherAuthority},
		"other network":        {green.member(peer, nil).Credential(), ErrOtherNetwork},
		"our key, other name":  {forged(t, public, by.certificate, by.key, "green", nil), ErrOtherNetwork},
		"another's signature":  {selfSigned, ErrOtherAuthority},
		"expired":              {make(func(c *x509.Certificate) { c.NotAfter = o.now().Add(-time.Minute) }), ErrExpired},
		"not yet valid":        {make(func(c *x509.Certificate) { c.NotBefore = o.now().Add(time.Minute) }), ErrNotYetValid},
		"an authority":         {by.certificate.Raw, ErrOtherKey},
		"a member's authority": {make(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }), ErrMalformed},
		"no network":           {make(func(c *x509.Certificate) { c.URIs = nil }), ErrOtherNetwork},
		"two networks":         {make(func(c *x509.Certificate) { c.URIs = append(c.URIs, memberURI("green")) }), ErrOtherNetwork},
		"the name in clear":    {make(func(c *x509.Certificate) { c.URIs = []*url.URL{networkURI("blue")} }), ErrOtherNetwork},
		"a key of P-384":       {forged(t, &p384.PublicKey, by.certificate, by.key, "blue", nil), ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			x := o.member(stranger, nil)
			if len(c.shown) > 0 { // nothing is no news
				require.NoError(t, x.Admit(peer, good))
			}
			if len(c.shown) > 0 {
				require.ErrorIs(t, x.Admit(peer, c.shown), c.want)
				require.NoError(t, x.Admit(peer, nil), "what it showed before")
				x = o.member(stranger, nil)
			}
			err := x.Admit(peer, c.shown)
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, ErrNotMember)
			require.ErrorIs(t, err, overlay.ErrNotAdmitted)
		})
	}
}

// TestMemberSignsNothing: what a member's key signed is worth nothing, with its
// certificate beside it too.
func TestMemberSignsNothing(t *testing.T) {
	o := newOffice(t, "blue")
	id, third := newIdentity(t), newIdentity(t)
	o.issue(id, 0)
	_, x := o.join()
	leaf := o.member(id.ID(), nil).own[0]
	chain := append(forged(t, &third.Key().PublicKey, leaf, id.Key(), "blue", nil), leaf.Raw...)
	require.ErrorIs(t, x.Admit(third.ID(), chain), ErrOtherAuthority)
}

// TestMemberTime: what was admitted once is not any more when its time is over, to the
// second, and so for a certificate that has not begun.
func TestMemberTime(t *testing.T) {
	o := newOffice(t, "blue")
	id := newIdentity(t)
	o.issue(id, time.Hour)
	shown := o.member(id.ID(), nil).Credential()
	_, x := o.join()
	require.NoError(t, x.Admit(id.ID(), shown))
	o.add(time.Hour)
	require.NoError(t, x.Admit(id.ID(), nil), "the last second")
	o.add(time.Second)
	require.ErrorIs(t, x.Admit(id.ID(), nil), ErrExpired)
	require.ErrorIs(t, x.Admit(id.ID(), shown), ErrExpired, "replayed")
	o.add(-time.Hour - Backdate - time.Second)
	require.NoError(t, x.Admit(id.ID(), nil), "a clock that is late by as much as is allowed")
	o.add(-time.Second)
	require.ErrorIs(t, x.Admit(id.ID(), nil), ErrNotYetValid)
	require.ErrorIs(t, x.Status().Err, ErrNotYetValid)

	o.add(AuthorityLife + Backdate + 2*time.Second)
	require.ErrorIs(t, x.Admit(id.ID(), nil), ErrExpired)
	require.ErrorIs(t, x.Status().Err, ErrExpired)
}

// TestMemberRenews: a new certificate counts beside and after the old one.
func TestMemberRenews(t *testing.T) {
	o := newOffice(t, "blue")
	id := newIdentity(t)
	o.issue(id, time.Hour)
	peer := o.member(id.ID(), nil)
	_, x := o.join()
	old := peer.Credential()
	require.NoError(t, x.Admit(id.ID(), old))
	_, err := o.Renew(2*time.Hour, id.ID())
	require.NoError(t, err)
	require.NoError(t, peer.Update(o.material(id.ID())))
	require.NotEqual(t, old, peer.Credential())
	require.NoError(t, x.Admit(id.ID(), peer.Credential()))
	o.add(90 * time.Minute)
	require.NoError(t, x.Admit(id.ID(), nil))
	require.ErrorIs(t, x.Admit(id.ID(), old), ErrExpired)
}

// TestRevoked: a list counts whether it comes in a file or from a peer, for those who were
// admitted before as well; every certificate that they ever had is on it.
func TestRevoked(t *testing.T) {
	o := newOffice(t, "blue")
	bad := newIdentity(t)
	o.issue(bad, 0)
	first := o.member(bad.ID(), nil).Credential()
	o.issue(bad, 0)
	second := o.member(bad.ID(), nil).Credential()
	a, at := o.join()
	_, bt := o.join()
	for _, x := range []*Member{at, bt} {
		require.NoError(t, x.Admit(bad.ID(), first))
		require.NoError(t, x.Admit(bad.ID(), second))
	}
	before := at.Credential()
	require.NoError(t, o.Revoke(bad.ID()))
	require.NoError(t, o.Revoke(bad.ID()), "again")
	require.NoError(t, at.Admit(bad.ID(), nil), "nobody has told it")

	require.NoError(t, at.Update(o.material(a)))
	for _, shown := range [][]byte{nil, first, second} {
		require.ErrorIs(t, at.Admit(bad.ID(), shown), ErrRevoked)
	}
	require.NoError(t, bt.Admit(a, before))
	require.NoError(t, bt.Admit(bad.ID(), nil))
	require.NoError(t, bt.Admit(a, at.Credential()), "with the new list")
	require.ErrorIs(t, bt.Admit(bad.ID(), nil), ErrRevoked)
	require.NotEqual(t, before, bt.Credential(), "it passes the list on")
	require.Equal(t, 2, bt.Status().Authorities[0].Revoked)

	// A refused peer's list counts as well: it speaks for itself.
	_, ct := o.join()
	require.NoError(t, o.Revoke(a))
	require.ErrorIs(t, bt.Admit(a, append(o.member(a2(o), nil).Credential(), at.own[0].Raw...)), ErrRevoked)
	require.ErrorIs(t, ct.Admit(bad.ID(), first), ErrRevoked)

	r, err := Request(bad)
	require.NoError(t, err)
	_, err = o.Issue(0, r)
	require.ErrorIs(t, err, ErrRevoked, "for ever")
	_, err = o.Renew(0, bad.ID())
	require.ErrorIs(t, err, ErrRevoked)
	require.NoDirExists(t, o.Folder(bad.ID()))
}

// a2 is one more member of o.
func a2(o *office) overlay.PeerID {
	id, _ := o.join()
	return id
}

// TestListRollback: an older list than one that was seen never counts, nor one of another
// authority, or that somebody else signed.
func TestListRollback(t *testing.T) {
	o := newOffice(t, "blue")
	bad, badRule := o.join()
	a, at := o.join()
	old := o.material(a)
	o.add(time.Minute)
	require.NoError(t, o.Revoke(bad))
	require.NoError(t, at.Update(o.material(a)))
	require.ErrorIs(t, at.Admit(bad, badRule.Credential()), ErrRevoked)
	require.NoError(t, at.Update(old))
	require.ErrorIs(t, at.Admit(bad, badRule.Credential()), ErrRevoked, "an old file")
	require.NoError(t, at.Update(Material{Authorities: old.Authorities, Certificates: old.Certificates}))
	require.ErrorIs(t, at.Admit(bad, nil), ErrNothingShown)
	require.ErrorIs(t, at.Admit(bad, badRule.Credential()), ErrRevoked, "no file")

	seen := at.Lists()
	again := o.member(a, func(_ *Config, m *Material) { m.Lists = slices.Concat(old.Lists, seen) })
	require.ErrorIs(t, again.Admit(bad, badRule.Credential()), ErrRevoked, "after a restart")

	other := newOffice(t, "blue")
	other.add(time.Hour)
	require.NoError(t, other.Publish())
	key := other.signers[0].key
	forgedList, err := newList(pretend(o.signers[0].certificate, key), key, nil, nil, other.now())
	require.NoError(t, err)
	require.ErrorIs(t, again.Admit(bad, slices.Concat(badRule.own[0].Raw, forgedList.Raw)), ErrRevoked)
	require.ErrorIs(t, again.Admit(bad, append(slices.Clone(badRule.own[0].Raw), other.signers[0].list.Raw...)), ErrRevoked)
	require.Len(t, again.Status().Authorities, 1)
}

// TestListPolicy: without a valid list nobody is admitted, or, if the host wants that,
// everybody who is not known to be revoked.
func TestListPolicy(t *testing.T) {
	o := newOffice(t, "blue")
	id := newIdentity(t)
	o.issue(id, 2*ListLife)
	shown := o.member(id.ID(), nil).own[0].Raw // without a list
	bad, badRule := o.join()
	badShown := badRule.own[0].Raw
	a, _ := o.join()
	require.NoError(t, o.Revoke(bad))
	with := func(p ListPolicy, lists bool) *Member {
		return o.member(a, func(c *Config, m *Material) {
			c.Lists = p
			if !lists {
				m.Lists = nil
			}
		})
	}
	require.ErrorIs(t, with(Require, false).Admit(id.ID(), shown), ErrNoList)
	require.NoError(t, with(Warn, false).Admit(id.ID(), shown))
	require.Contains(t, with(Warn, false).Status().Warnings(o.now())[0], "no revocation list")

	strict, lenient := with(Require, true), with(Warn, true)
	for _, x := range []*Member{strict, lenient} {
		require.NoError(t, x.Admit(id.ID(), shown))
		require.ErrorIs(t, x.Admit(bad, badShown), ErrRevoked)
	}
	o.add(ListLife)
	require.NoError(t, strict.Admit(id.ID(), nil))
	o.add(time.Second)
	require.ErrorIs(t, strict.Admit(id.ID(), nil), ErrNoList, "overdue")
	require.NoError(t, lenient.Admit(id.ID(), nil))
	require.Len(t, lenient.Status().Warnings(o.now()), 2) // and its certificate's end
	require.NoError(t, o.Publish())
	require.NoError(t, strict.Update(o.material(a)))
	require.NoError(t, strict.Admit(id.ID(), nil), "a new list heals it")
}

// TestRotation: in a rotation nodes get their files in any order, and all admit each other
// at each step; afterwards only those of the new authority count.
func TestRotation(t *testing.T) {
	o := newOffice(t, "blue")
	var ids []overlay.PeerID
	var rules []*Member
	for range 3 {
		id, rule := o.join()
		ids, rules = append(ids, id), append(rules, rule)
	}
	all := func(step string) {
		for i := range rules {
			for j := range rules {
				require.NoError(t, rules[i].Admit(ids[j], rules[j].Credential()), "%s: %d of %d", step, i, j)
				require.NoError(t, rules[i].Admit(ids[j], nil))
			}
		}
	}
	all("before")
	old := rules[2].Credential()
	require.NoError(t, o.Rotate(0))
	require.ErrorIs(t, o.Rotate(0), ErrExists)
	for _, i := range []int{1, 2, 0} {
		require.NoError(t, rules[i].Update(o.material(ids[i])))
		all("rotate")
	}
	late, lateRule := o.join() // of both
	require.NoError(t, rules[0].Admit(late, lateRule.Credential()))
	require.NoError(t, o.Retire())
	require.Error(t, o.Retire())
	for _, i := range []int{2, 0, 1} {
		require.NoError(t, rules[i].Update(o.material(ids[i])))
		all("retire")
	}
	require.ErrorIs(t, rules[0].Admit(ids[2], old), ErrOtherAuthority)
	require.NoError(t, rules[0].Admit(late, nil), "it showed the new one, too")
	require.Len(t, rules[0].Status().Authorities, 1)
}

// TestUpdateRefuses: what is not right changes nothing.
func TestUpdateRefuses(t *testing.T) {
	o, green := newOffice(t, "blue"), newOffice(t, "green")
	a, x := o.join()
	b, bt := o.join()
	ga, _ := green.join()
	good := o.material(a)
	for name, c := range map[string]struct {
		change func(*Material)
		want   error
	}{
		"no authority":            {func(m *Material) { m.Authorities = nil }, ErrMalformed},
		"cut off":                 {func(m *Material) { m.Authorities = m.Authorities[:len(m.Authorities)/2] }, ErrMalformed},
		"other type":              {func(m *Material) { m.Authorities = m.Lists }, ErrMalformed},
		"other network":           {func(m *Material) { m.Authorities = green.material(ga).Authorities }, ErrOtherNetwork},
		"a member as authority":   {func(m *Material) { m.Authorities = m.Certificates }, ErrMalformed},
		"another's certificate":   {func(m *Material) { m.Certificates = o.material(b).Certificates }, ErrOtherKey},
		"no certificate":          {func(m *Material) { m.Certificates = nil }, ErrMalformed},
		"garbage for lists":       {func(m *Material) { m.Lists = encodePEM(typeList, []byte("x")) }, ErrMalformed},
		"too many of authorities": {func(m *Material) { m.Authorities = bytes.Repeat(m.Authorities, maxAuthorities+1) }, ErrMalformed},
	} {
		m := good
		c.change(&m)
		require.ErrorIs(t, x.Update(m), c.want, name)
		require.NoError(t, x.Admit(b, bt.Credential()), name)
	}
}

// TestMemberForgets: those whose certificates have ended are forgotten, so memory is
// bounded by how many members there are.
func TestMemberForgets(t *testing.T) {
	o := newOffice(t, "blue")
	_, x := o.join()
	x.sweepAt = 2
	for range 2 {
		id := newIdentity(t)
		c, err := newMember("blue", o.signers[0].certificate, o.signers[0].key, &id.Key().PublicKey, o.now(), time.Hour)
		require.NoError(t, err)
		require.NoError(t, x.Admit(id.ID(), c.Raw))
	}
	require.Len(t, x.known, 2)
	o.add(2 * time.Hour)
	x.sweepAt = 2
	b, bt := o.join()
	require.NoError(t, x.Admit(b, bt.Credential()))
	require.Len(t, x.known, 1)
}

// TestLongList: a list that does not fit is not shown, and the rest is.
func TestLongList(t *testing.T) {
	o := newOffice(t, "blue")
	a, _ := o.join()
	s := o.signers[0]
	var entries []x509.RevocationListEntry
	for range 400 {
		serial, err := newSerial()
		require.NoError(t, err)
		entries = append(entries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: o.now()})
	}
	require.NoError(t, o.signList(s, entries, o.now().Add(time.Minute)))
	x := o.member(a, func(_ *Config, m *Material) { m.Lists = encodePEM(typeList, s.list.Raw) })
	require.Equal(t, 400, x.Status().Authorities[0].Revoked)
	require.Equal(t, x.own[0].Raw, x.Credential())
}

func FuzzCredential(f *testing.F) {
	o := newOffice(f, "blue")
	id, x := o.join()
	f.Add(x.Credential())
	f.Add(x.own[0].Raw)
	f.Add(o.signers[0].list.Raw)
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := x.Admit(id, b)
		if err == nil && len(b) > 0 && !bytes.Contains(b, x.own[0].Raw) {
			t.Errorf("admitted without its certificate: %x", b)
		}
	})
}
