package overlay

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/tap"
)

func testEntry() Entry {
	return Entry{
		Sequence: 7, Issued: time.UnixMilli(1_700_000_000_123), Life: 90 * time.Second, MAC: tap.MAC{2, 1},
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")}, Name: "web", Tag: "t",
	}
}

func testRecord(t testing.TB) (*Identity, Record) {
	t.Helper()
	id, err := NewIdentity()
	require.NoError(t, err)
	r, err := SignEntry(id, "blue", testEntry())
	require.NoError(t, err)
	return id, r
}

func TestEntryRoundTrip(t *testing.T) {
	id, r := testRecord(t)
	want := testEntry()
	want.Peer = id.ID()
	require.Equal(t, want, r.Entry)
	got, err := OpenEntry("blue", r.Signed)
	require.NoError(t, err)
	require.Equal(t, r, got)

	unsorted := testEntry()
	slices.Reverse(unsorted.IPs)
	unsorted.Issued, unsorted.Life = unsorted.Issued.Add(time.Microsecond), unsorted.Life+time.Microsecond
	r, err = SignEntry(id, "blue", unsorted)
	require.NoError(t, err)
	require.Equal(t, want, r.Entry)
}

func TestEntryForgeries(t *testing.T) {
	_, r := testRecord(t)
	_, err := OpenEntry("Blue", r.Signed)
	require.ErrorIs(t, err, ErrEntry, "another network's")
	for i := range r.Signed {
		b := slices.Clone(r.Signed)
		b[i] ^= 1
		_, err := OpenEntry("blue", b)
		require.ErrorIs(t, err, ErrEntry, "byte %d", i)
		_, err = OpenEntry("blue", r.Signed[:i])
		require.ErrorIs(t, err, ErrEntry, "%d bytes", i)
	}
	_, err = OpenEntry("blue", append(slices.Clone(r.Signed), 0))
	require.ErrorIs(t, err, ErrEntry)
	other, _ := testRecord(t)
	// Another node's key in place of the signer's.
	spki, err := x509.MarshalPKIXPublicKey(&other.key.PublicKey)
	require.NoError(t, err)
	_, _, n, err := parseEntry(r.Signed)
	require.NoError(t, err)
	_, err = OpenEntry("blue", append(r.appendTo(nil, spki), r.Signed[n:]...))
	require.ErrorIs(t, err, ErrEntry)
}

func TestEntryBounds(t *testing.T) {
	id, _ := testRecord(t)
	for name, change := range map[string]func(*Entry){
		"multicast MAC":  func(e *Entry) { e.MAC = tap.Broadcast },
		"no MAC":         func(e *Entry) { e.MAC = tap.MAC{} },
		"long name":      func(e *Entry) { e.Name = strings.Repeat("x", MaxEntryText+1) },
		"long tag":       func(e *Entry) { e.Tag = strings.Repeat("x", MaxEntryText+1) },
		"many addresses": func(e *Entry) { e.IPs = make([]netip.Addr, MaxEntryIPs+1) },
		"no address":     func(e *Entry) { e.IPs[0] = netip.Addr{} },
		"twice":          func(e *Entry) { e.IPs[0] = e.IPs[1] },
		"mapped":         func(e *Entry) { e.IPs[0] = netip.MustParseAddr("::ffff:10.0.0.1") },
		"zone":           func(e *Entry) { e.IPs[0] = netip.MustParseAddr("fe80::1%eth0") },
		"loopback":       func(e *Entry) { e.IPs[0] = netip.MustParseAddr("127.0.0.1") },
		"multicast":      func(e *Entry) { e.IPs[0] = netip.MustParseAddr("224.0.0.1") },
		"no life":        func(e *Entry) { e.Life = 0 },
		"long life":      func(e *Entry) { e.Life = MaxEntryLife + time.Second },
	} {
		e := testEntry()
		change(&e)
		_, err := SignEntry(id, "blue", e)
		require.ErrorIs(t, err, ErrEntry, name)
	}
	e := testEntry()
	e.Name, e.Tag, e.IPs = strings.Repeat("\xff", MaxEntryText), strings.Repeat("x", MaxEntryText), nil
	for i := range MaxEntryIPs {
		e.IPs = append(e.IPs, netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}))
	}
	r, err := SignEntry(id, "blue", e)
	require.NoError(t, err)
	require.LessOrEqual(t, len(r.Signed), MaxEntry)
	_, err = OpenEntry("blue", r.Signed)
	require.NoError(t, err)
	for _, k := range r.Keys() {
		require.LessOrEqual(t, len(k), MaxKey)
	}
}

func TestEntryTime(t *testing.T) {
	e := testEntry()
	for after, ok := range map[time.Duration]bool{
		-ClockSkew - 1: false, -ClockSkew: true, 0: true, e.Life: true, e.Life + ClockSkew: true, e.Life + ClockSkew + 1: false,
	} {
		err := e.CheckTime(e.Issued.Add(after))
		require.Equal(t, ok, err == nil, "%v", after)
		if !ok {
			require.ErrorIs(t, err, ErrEntryTime)
		}
	}
}

func TestDirectoryKeys(t *testing.T) {
	for want, got := range map[DirectoryKey]DirectoryKey{
		"m.02000000000a":                     KeyMAC(tap.MAC{2, 0, 0, 0, 0, 10}),
		"4.0a000001":                         KeyIP(netip.MustParseAddr("10.0.0.1")),
		"6.fd000000000000000000000000000001": KeyIP(netip.MustParseAddr("fd00::1")),
		"n.web-1":                            KeyName("Web-1"),
		"n.a_2eb_5f_c3_a5":                   KeyName("a.b_å"),
	} {
		require.Equal(t, want, got)
	}
	require.Equal(t, KeyIP(netip.MustParseAddr("10.0.0.1")), KeyIP(netip.MustParseAddr("::ffff:10.0.0.1")))
	require.Equal(t, []DirectoryKey{"m.020100000000", "4.0a000001", "4.0a000002", "6.fd000000000000000000000000000001", "n.web"}, testEntry().Keys())
}

// FuzzEntry: what is read has one encoding, and nothing panics.
func FuzzEntry(f *testing.F) {
	_, r := testRecord(f)
	f.Add(r.Signed)
	f.Add(r.Signed[:100])
	_, r = testRecord(f)
	r.Signed[3] = 0
	f.Add(r.Signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, spki, n, err := parseEntry(b)
		if err != nil {
			require.ErrorIs(t, err, ErrEntry)
			return
		}
		require.LessOrEqual(t, len(b), MaxEntry)
		require.Equal(t, b[:n], e.appendTo(nil, spki))
		require.NoError(t, e.check())
		_ = e.Keys()
		_, err = OpenEntry("fuzz", b) // nobody signs for it
		require.ErrorIs(t, err, ErrEntry)
	})
}
