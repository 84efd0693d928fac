//go:build linux

package tap_test

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/itest"
	"github.com/viasnet/vias/tap"
)

// BenchmarkBudget has this package's rows of docs/evaluation/packet-budget.md: a super-frame of 44 segments of
// 1,368 bytes (bulk) and a datagram of 64 (lone).
// Of a TAP, one frame at a time: what is read was sent over UDP by its kernel (read is the time of the reading alone), and what is
// written is for another MAC address, so that it ends where the kernel's stack begins.
func BenchmarkBudget(b *testing.B) {
	itest.Require(b, "ip")
	for kind, c := range map[string]struct{ bytes, segment int }{"bulk": {44 * 1368, 1368}, "lone": {64, 0}} {
		itest.Namespace(b, func() {
			d := openTAP(b, tap.LinuxConfig{Name: "t0", MTU: 1420})
			itest.Exec(b, "ip", "addr", "add", "192.0.2.1/24", "dev", "t0")
			itest.Exec(b, "ip", "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "t0")
			u, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2000})
			require.NoError(b, err)
			defer u.Close()
			if c.segment > 0 {
				setSegment(b, u, c.segment)
			}
			frame := tap.NewBatch(1, 2*tap.MaxFrame)
			b.Run("tap-read/"+kind, func(b *testing.B) { budgetRead(b, d, u, frame, c.bytes) })
			if frame.Len() == 0 { // it was left out by -bench
				return
			}
			b.Run("tap-write/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := d.WriteBatch(frame); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// budgetRead leaves a frame that it read in keep.
func budgetRead(b *testing.B, d tap.Device, u *net.UDPConn, keep *tap.Batch, size int) {
	payload, in := make([]byte, size), tap.NewBatch(64, 4*tap.MaxFrame)
	defer time.AfterFunc(time.Minute, func() { _ = d.Close() }).Stop()
	var took time.Duration
	b.ReportAllocs()
	for b.Loop() {
		_, err := u.Write(payload)
		require.NoError(b, err)
		for found := false; !found; {
			began := time.Now()
			if err := d.ReadBatch(in); err != nil {
				b.Fatal(err)
			}
			took += time.Since(began)
			for i := range in.Len() { // the kernel sends of itself, too
				if f := in.Frame(i); len(f) == size+42 && binary.BigEndian.Uint16(f[12:]) == 0x0800 {
					found = true
					if keep.Len() == 0 {
						keep.Append(f, in.Offload(i))
					}
				}
			}
		}
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/op")
}
