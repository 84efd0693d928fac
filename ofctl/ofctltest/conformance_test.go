package ofctltest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/viasnet/vias/ofctl"
)

// fakeHarness is a Switch with channels in its ports.
type fakeHarness struct {
	t       *testing.T
	sw      *Switch
	ports   []uint32
	out     map[uint32]chan []byte
	connect func() ofctl.Switch
}

func newFake(t *testing.T) *fakeHarness {
	h := &fakeHarness{t: t, sw: New(Config{DatapathID: 42}), out: make(map[uint32]chan []byte)}
	t.Cleanup(func() { require.NoError(t, h.sw.Close()) })
	for i := range 4 {
		c := make(chan []byte, 256)
		no, err := h.sw.AddPort(Port{
			Name: fmt.Sprint("p", i), MAC: [6]byte{2, 1, 1, 1, 1, byte(i)}, Output: func(f []byte) { c <- f },
		})
		require.NoError(t, err)
		h.ports, h.out[no] = append(h.ports, no), c
	}
	h.connect = func() ofctl.Switch { return h.sw.Connect() }
	return h
}

func (h *fakeHarness) Connect() ofctl.Switch {
	sw := h.connect()
	h.t.Cleanup(func() { _ = sw.Close() })
	return sw
}

func (h *fakeHarness) Ports() []uint32              { return h.ports }
func (h *fakeHarness) Send(no uint32, frame []byte) { h.sw.Input(no, frame) }
func (h *fakeHarness) Settle()                      {}

func (h *fakeHarness) SetTag(no uint32, vlan uint16) {
	require.True(h.t, h.sw.SetPort(no, func(p *Port) { p.Tag = vlan }))
}

func (h *fakeHarness) AddPort(name string) {
	_, err := h.sw.AddPort(Port{Name: name, MAC: [6]byte{2, 9}})
	require.NoError(h.t, err)
}

func (h *fakeHarness) DeletePort(name string) {
	ports, err := h.sw.Ports(h.t.Context())
	require.NoError(h.t, err)
	for _, p := range ports {
		if p.Name == name {
			require.True(h.t, h.sw.RemovePort(p.No))
		}
	}
}

func (h *fakeHarness) Expect(no uint32, timeout time.Duration) []byte {
	select {
	case f := <-h.out[no]:
		return f
	case <-time.After(timeout):
		return nil
	}
}

func TestConformance(t *testing.T) {
	RunConformance(t, func(t *testing.T) Harness { return newFake(t) })
}
