package lab

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/internal/nodecfg"
)

// strays come to host 2 from the provider's network all the time, as if host 1 had
// sent them: a TCP segment to a reserved port of which no flow is known, and a
// datagram to a guest. Nobody may answer the one, and the guest must not hear the
// other.
type strays struct{ sent, heard atomic.Uint64 }

const strayPort = 7411

func (s *system) startStrays() *strays {
	s.t.Helper()
	a, b, guest := s.hosts[0], s.hosts[1], s.guest(2, 2)
	n := &strays{}
	go count(udp(s.t, guest.Namespace, netip.AddrPortFrom(netip.IPv4Unspecified(), strayPort)), &n.heard)
	fd, index := s.packetSocket(b.Index)
	stop, stopped := make(chan struct{}), make(chan struct{})
	s.t.Cleanup(func() {
		close(stop)
		<-stopped
		_ = unix.Close(fd)
	})
	to := &unix.SockaddrLinklayer{Ifindex: index}
	frames := [][]byte{
		ipv4(b.MAC, a.MAC, 6, 64, a.Addr, b.Addr, segment(61500, 61501, ack)),
		ipv4(guest.MAC, a.MAC, 17, 64, s.guest(1, 1).Addr, guest.Addr, datagram(strayPort, strayPort, 1)),
	}
	go n.send(stop, stopped, func(f []byte) error { return unix.Sendto(fd, f, 0, to) }, frames)
	return n
}

func (n *strays) send(stop <-chan struct{}, stopped chan<- struct{}, send func([]byte) error, frames [][]byte) {
	defer close(stopped)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		}
		for _, f := range frames {
			if send(f) == nil {
				n.sent.Add(1)
			}
		}
	}
}

// A switch is killed and comes back without any flow of ours: guests stay apart from
// the provider's network, no host resets anything, their connection lives, and the
// bypass returns by itself.
func TestIntegrationSwitchRestart(t *testing.T) {
	beside(t)
	s := newSystem(t)
	stray, bare := s.startStrays(), s.startCapture()
	s.await(10*time.Second, "a host without vias resets strays", func() bool { return bare.resets() > 0 })
	bare.end()
	s.startNodes()
	s.policies(nodecfg.Bypass)
	loud, k := s.startNoise(), s.startChat(newMarker())
	s.awaitState(10*time.Second, k.from(), "bypassed")
	s.awaitRounds(10*time.Second, k, 20, "on the bypass")
	s.awaitNoise(5*time.Second, loud)
	seen, sent := s.startCapture(), stray.sent.Load()
	f, _ := s.flow(2, k.from())
	bypassed := f.Since

	start := time.Now()
	require.NoError(t, s.ovs[1].RestartVswitchd(t.Context(), true))
	t.Logf("the switch is back after %v", time.Since(start))
	s.awaitNoise(10*time.Second, loud)
	t.Logf("guests on both hosts hear the overlay after %v", time.Since(start))
	s.awaitRounds(15*time.Second, k, 5, "after the restart")
	t.Logf("their connection goes on after %v", time.Since(start))
	s.await(40*time.Second, "the flow is bypassed again", func() bool {
		f, ok := s.flow(2, k.from())
		return ok && f.State == "bypassed" && f.Since.After(bypassed)
	})
	s.awaitState(10*time.Second, k.from(), "bypassed")
	t.Logf("bypassed again after %v", time.Since(start))
	s.awaitRounds(10*time.Second, k, 20, "on the new bypass")
	s.awaitNoise(5*time.Second, loud)
	isCutOff(t, s.Lab, s.guest(2, 1).Namespace, gateway(), "a guest and the provider")
	frames := seen.all(t)
	require.Zero(t, seen.resets())
	require.Zero(t, stray.heard.Load(), "a guest heard the provider's network")
	require.Greater(t, stray.sent.Load(), sent+200)
	s.requireClasses(frames, s.network(), classData, classProbe, classBypass)
}
