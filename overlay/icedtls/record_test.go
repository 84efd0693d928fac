package icedtls

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/pion/dtls/v3/pkg/protocol/recordlayer"
	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
)

// record makes a DTLS record; cid is what type 25 has.
func dtlsRecord(kind byte, epoch uint16, cid uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind, 0xfe, 0xfd}, epoch)
	b = append(b, 0, 0, 0, 0, 9, 9)
	if kind == recordWithCID {
		b = binary.BigEndian.AppendUint32(b, cid)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// fragment makes a handshake message in one piece.
func fragment(sequence uint16, body string) []byte {
	n := byte(len(body))
	b := binary.BigEndian.AppendUint16([]byte{11, 0, 0, n}, sequence)
	return append(append(b, 0, 0, 0, 0, 0, n), body...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestPlaintextIn(t *testing.T) {
	change, long := []byte{1}, make([]byte, 30)
	sealed := dtlsRecord(recordWithCID, 1, 7, long)
	flight := join(dtlsRecord(recordHandshake, 0, 0, join(fragment(1, "cert"), fragment(2, "key"))),
		dtlsRecord(recordHandshake, 0, 0, fragment(lastPlainMessage, "")), dtlsRecord(recordChange, 0, 0, change), sealed)
	for name, c := range map[string]struct {
		datagram []byte
		want     plaintext
	}{
		"sealed":                   {sealed, plainNone},
		"two sealed":               {join(sealed, sealed), plainNone},
		"sealed without CID":       {dtlsRecord(23, 1, 0, long), plainNone},
		"last flight":              {flight, plainRepeat},
		"hello":                    {dtlsRecord(recordHandshake, 0, 0, fragment(0, "hello")), plainRepeat},
		"change":                   {dtlsRecord(recordChange, 0, 0, change), plainRepeat},
		"change to something":      {dtlsRecord(recordChange, 0, 0, []byte{2}), plainBad},
		"long change":              {dtlsRecord(recordChange, 0, 0, []byte{1, 1}), plainBad},
		"empty change":             {join(dtlsRecord(recordChange, 0, 0, nil), sealed), plainBad},
		"alert":                    {dtlsRecord(21, 0, 0, []byte{2, 0}), plainBad},
		"data":                     {dtlsRecord(23, 0, 0, long), plainBad},
		"heartbeat":                {dtlsRecord(24, 0, 0, long), plainBad},
		"CID in epoch 0":           {dtlsRecord(recordWithCID, 0, 7, long), plainBad},
		"unknown type":             {dtlsRecord(63, 0, 0, long), plainBad},
		"data behind sealed":       {join(sealed, dtlsRecord(23, 0, 0, long)), plainBad},
		"data behind a flight":     {join(flight, dtlsRecord(23, 0, 0, long)), plainBad},
		"message of the future":    {dtlsRecord(recordHandshake, 0, 0, fragment(lastPlainMessage+1, "x")), plainBad},
		"future behind the past":   {dtlsRecord(recordHandshake, 0, 0, join(fragment(0, "x"), fragment(99, "y"))), plainBad},
		"short message":            {dtlsRecord(recordHandshake, 0, 0, fragment(1, "")[:11]), plainBad},
		"message too long":         {dtlsRecord(recordHandshake, 0, 0, fragment(1, "abc")[:14]), plainBad},
		"no message":               {join(dtlsRecord(recordHandshake, 0, 0, nil), sealed), plainBad},
		"short header":             {sealed[:12], plainBad},
		"short header with CID":    {sealed[:16], plainBad},
		"too short":                {sealed[:len(sealed)-1], plainBad},
		"something behind sealed":  {append(bytes.Clone(sealed), 23), plainBad},
		"nothing":                  {nil, plainNone},
		"empty record at the end":  {dtlsRecord(23, 1, 0, nil), plainBad},
		"empty record in between":  {join(dtlsRecord(23, 1, 0, nil), sealed), plainNone},
		"plaintext behind garbage": {join(dtlsRecord(99, 1, 0, long), dtlsRecord(23, 0, 0, long)), plainBad},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, plaintextIn(c.datagram)) })
	}
}

// FuzzRecords compares with how pion cuts a datagram.
func FuzzRecords(f *testing.F) {
	sealed := dtlsRecord(recordWithCID, 1, 7, make([]byte, 30))
	f.Add(sealed)
	f.Add(join(sealed, dtlsRecord(23, 0, 0, []byte("x"))))
	f.Add(join(dtlsRecord(recordHandshake, 0, 0, fragment(1, "cert")), dtlsRecord(recordChange, 0, 0, []byte{1}), sealed))
	f.Add(sealed[:16])
	f.Fuzz(func(t *testing.T, d []byte) {
		got := plaintextIn(d)
		records, err := recordlayer.ContentAwareUnpackDatagram(d, cidLength)
		if err != nil {
			require.Equal(t, plainBad, got)
			return
		}
		plain := false
		for _, r := range records {
			if binary.BigEndian.Uint16(r[recordEpoch:]) != 0 {
				continue
			}
			plain = true
			if r[0] != recordHandshake && !(r[0] == recordChange && bytes.Equal(r[recordHeader:], []byte{1})) {
				require.Equal(t, plainBad, got)
			}
		}
		require.Equal(t, plain, got != plainNone)
	})
}

func TestPlaintextInAllocs(t *testing.T) {
	d := dtlsRecord(recordWithCID, 1, 7, make([]byte, 1400))
	require.Zero(t, testing.AllocsPerRun(100, func() { plaintextIn(d) }))
}

func BenchmarkPlaintextIn(b *testing.B) {
	d := dtlsRecord(recordWithCID, 1, 7, make([]byte, 1400))
	b.ReportAllocs()
	for b.Loop() {
		if plaintextIn(d) != plainNone {
			b.Fatal("it is sealed")
		}
	}
}

// inject gives the socket of l's side a datagram that a stranger sent.
func inject(l *link, d []byte, from netip.AddrPort) bool {
	s := l.session.transport.socket
	b := s.pool.get()
	b.n, b.from = copy(b.data, d), from
	return s.dispatch(b, new(stun.Message)) == causeNone
}

// TestPlaintextRecord: a stranger writes the peer's address as the source, or knows
// the connection ID, which is not encrypted. One record does not end the Link.
func TestPlaintextRecord(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	exchange(t, l, r, "hello")
	body := append([]byte{2}, make([]byte, 29)...)
	for name, x := range map[string]*link{"dialler": l, "acceptor": r} {
		cid, path := x.session.cid, x.session.path.Load().Remote
		sealed := dtlsRecord(recordWithCID, 1, cid, body)
		for _, kind := range []byte{20, 21, 22, 23, 24, 26, 63} {
			t.Run(fmt.Sprint(name, " ", kind), func(t *testing.T) {
				plain := dtlsRecord(kind, 0, 0, body)
				require.False(t, inject(x, plain, path))
				require.False(t, inject(x, join(sealed, plain), netip.MustParseAddrPort("203.0.113.9:999")))
				require.True(t, inject(x, sealed, path), "whether it opens is DTLS's to say")
				exchange(t, l, r, "there")
				exchange(t, r, l, "and back")
			})
		}
	}
}

// TestRepeatedFlightsBounded: what a peer sends again that missed our last flight
// is answered, but not as often as a stranger likes.
func TestRepeatedFlightsBounded(t *testing.T) {
	n := newTestNet()
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	again := dtlsRecord(recordHandshake, 0, 0, fragment(1, "cert"))
	taken := 0
	for range 1000 {
		if inject(r, again, r.session.path.Load().Remote) {
			taken++
		}
	}
	require.Positive(t, taken)
	require.Less(t, taken, 100)
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
}

// TestLastFlightLost: the dialler repeats its flight until it gets the acceptor's
// last one, which believes the handshake complete.
func TestLastFlightLost(t *testing.T) {
	n := newTestNet()
	var lost atomic.Int32
	lossy := n.config
	lossy.drop = func(d []byte, _ netip.AddrPort) bool {
		if d[0] == recordChange && lost.Load() < 2 { // ChangeCipherSpec and Finished
			lost.Add(1)
			return true
		}
		return false
	}
	a := openTransport(t, n.open(n.config), overlaytest.NewIdentity(t), nil)
	b := openTransport(t, Open(lossy), overlaytest.NewIdentity(t), nil)
	l, r := connect(t, a, b)
	require.EqualValues(t, 2, lost.Load())
	exchange(t, l, r, "there")
	exchange(t, r, l, "and back")
}
