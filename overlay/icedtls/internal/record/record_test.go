package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func secret(b byte) []byte { return bytes.Repeat([]byte{b}, SecretLen) }

func pair(tb testing.TB, epoch uint8) (*Sealer, *Opener) {
	tb.Helper()
	s, err := NewSealer(secret(7), Client, epoch, 0x01020304)
	require.NoError(tb, err)
	o, err := NewOpener(secret(7), Client, epoch)
	require.NoError(tb, err)
	return s, o
}

func seal(tb testing.TB, s *Sealer, text []byte) []byte {
	tb.Helper()
	mem := make([]byte, HeaderLen+len(text)+TagLen)
	copy(mem[HeaderLen:], text)
	r, err := s.Seal(mem, HeaderLen, len(text))
	require.NoError(tb, err)
	return r
}

func TestSealAndOpen(t *testing.T) {
	s, o := pair(t, 3)
	for i, text := range []string{"", "a", strings.Repeat("frame", 300)} {
		r := seal(t, s, []byte(text))
		require.Len(t, r, len(text)+Overhead)
		h, ok := Parse(r)
		require.True(t, ok)
		require.Equal(t, Header{Epoch: 3, Session: 0x01020304, Counter: uint64(i)}, h)
		got, err := o.Open(nil, r)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		_, err = o.Open(nil, r)
		require.Equal(t, ErrReplayed, err)
	}
	require.Equal(t, uint64(3), s.Sealed())
}

// TestInPlace: neither end copies, and neither allocates.
func TestInPlace(t *testing.T) {
	s, o := pair(t, 0)
	mem := make([]byte, 64+1500+TagLen)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		copy(mem[64:], "hello")
		r, err := s.Seal(mem, 64, 1500)
		if err != nil {
			panic(err)
		}
		got, err := o.Open(r[HeaderLen:HeaderLen], r)
		if err != nil || string(got[:5]) != "hello" || &got[0] != &mem[64] {
			panic("not in place")
		}
	}))
}

// TestChanged: no bit of a record can be changed, and a record that was refused can still come.
func TestChanged(t *testing.T) {
	s, o := pair(t, 0)
	r := seal(t, s, []byte("text"))
	for bit := range len(r) * 8 {
		bad := bytes.Clone(r)
		bad[bit/8] ^= 1 << (bit % 8)
		_, err := o.Open(nil, bad)
		require.Error(t, err, "bit %d", bit)
	}
	for n := range len(r) {
		_, err := o.Open(nil, r[:n])
		require.Error(t, err, "%d bytes", n)
	}
	_, err := o.Open(nil, append(bytes.Clone(r), 0))
	require.Equal(t, ErrForged, err)
	_, err = o.Open(nil, r)
	require.NoError(t, err)
}

// TestKeysAreApart: by direction, secret and epoch.
func TestKeysAreApart(t *testing.T) {
	s, _ := pair(t, 0)
	r := seal(t, s, []byte("text"))
	for name, c := range map[string]struct {
		secret []byte
		sender Role
		epoch  uint8
		want   error
	}{
		"the other direction": {secret(7), Server, 0, ErrForged},
		"another association": {secret(8), Client, 0, ErrForged},
		"another epoch":       {secret(7), Client, 1, ErrMalformed},
	} {
		o, err := NewOpener(c.secret, c.sender, c.epoch)
		require.NoError(t, err)
		_, err = o.Open(nil, r)
		require.Equal(t, c.want, err, name)
	}
	_, err := NewOpener(secret(7)[1:], Client, 0)
	require.Error(t, err)
	_, err = NewSealer(nil, Client, 0, 1)
	require.Error(t, err)
}

func TestSpent(t *testing.T) {
	s, _ := pair(t, 0)
	s.next.Store(MaxRecords - 1)
	seal(t, s, nil)
	for range 3 {
		_, err := s.Seal(make([]byte, Overhead), HeaderLen, 0)
		require.Equal(t, ErrSpent, err)
	}
	require.Equal(t, uint64(MaxRecords), s.Sealed())
}

// TestWindow compares the ring with a set of all numbers that ever came.
func TestWindow(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var w window
		came, next := map[uint64]bool{}, uint64(0)
		at := rnd.Uint64N(MaxRecords)
		for range 20000 {
			n := at
			switch rnd.IntN(10) {
			case 0:
				n = at + rnd.Uint64N(Window*3)
			case 1, 2:
				n = at - min(at, rnd.Uint64N(Window+100))
			case 3:
				n = at - min(at, Window-2+rnd.Uint64N(4))
			case 4:
				n = rnd.Uint64() >> rnd.IntN(64)
			default:
				n = at + 1
			}
			want := !came[n] && (n >= next || next-n <= Window) && n < MaxRecords
			require.Equal(t, want, w.fresh(n), "seed %d, record %d, next %d", seed, n, next)
			if want && rnd.IntN(8) > 0 { // or it was forged
				w.note(n)
				came[n], next = true, max(next, n+1)
				at = n
			}
		}
	}
}

// TestVectors: docs/protocol.md says what this code does.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/protocol.md")
	require.NoError(t, err)
	vectors := 0
	for block := range strings.SplitSeq(string(text), "```vector\n") {
		block, _, ok := strings.Cut(block, "```")
		if !ok || !strings.HasPrefix(block, "secret") {
			continue
		}
		v := map[string][]byte{}
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(line, ":")
			b, err := hex.DecodeString(strings.Join(strings.Fields(value), ""))
			require.NoError(t, err, line)
			v[name] = b
		}
		sender := Role(v["sender"][0])
		s, err := NewSealer(v["secret"], sender, v["epoch"][0], binary.BigEndian.Uint32(v["session"]))
		require.NoError(t, err)
		s.next.Store(binary.BigEndian.Uint64(v["counter"]))
		require.Equal(t, hex.EncodeToString(v["record"]), hex.EncodeToString(seal(t, s, v["text"])))
		vectors++
	}
	require.Equal(t, 3, vectors)
}

func FuzzOpen(f *testing.F) {
	s, _ := pair(f, 0)
	f.Add(seal(f, s, []byte("text")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, o := pair(t, 0)
		before := bytes.Clone(b)
		if _, err := o.Open(nil, b); err == nil {
			require.Equal(t, "text", string(must(o.aead.Open(nil, nonceOf(o, b), b[HeaderLen:], b[:HeaderLen]))))
		}
		require.Equal(t, before, b)
	})
}

func nonceOf(o *Opener, b []byte) []byte {
	h, _ := Parse(b)
	o.setNonce(&o.nonce, h.Counter)
	return o.nonce[:]
}

func must(b []byte, _ error) []byte { return b }

func BenchmarkSeal(b *testing.B) {
	s, _ := pair(b, 0)
	mem := make([]byte, HeaderLen+1400+TagLen)
	b.ReportAllocs()
	b.SetBytes(1400)
	for b.Loop() {
		s.next.Store(1)
		_, _ = s.Seal(mem, HeaderLen, 1400)
	}
}

func BenchmarkOpen(b *testing.B) {
	s, o := pair(b, 0)
	r := seal(b, s, make([]byte, 1400))
	dst := make([]byte, 0, 1400)
	b.ReportAllocs()
	b.SetBytes(1400)
	for b.Loop() {
		o.window = window{}
		_, _ = o.Open(dst, r)
	}
}

// BenchmarkForged is what garbage costs.
func BenchmarkForged(b *testing.B) {
	s, o := pair(b, 0)
	r := seal(b, s, make([]byte, 1400))
	r[20] ^= 1
	dst := make([]byte, 0, 1400)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = o.Open(dst, r)
	}
}
