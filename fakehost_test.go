package vias

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/viasnet/vias/bypass"
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/overlaytest"
)

// fakeHost is a bypass host whose outcomes the test decides.
type fakeHost struct {
	config bypass.MemberConfig
	answer func(bypass.Flow, bypass.Verdict) *bypass.Status // nil = silence

	mu        sync.Mutex // guards what follows
	calls     []string
	requests  []bypass.Flow
	status    map[bypass.Flow]bypass.Status
	received  []string
	injected  [][]byte
	injectErr error
	attachErr error
	detachErr error
	leaving   func() // called by Leave; may be nil
}

func (h *fakeHost) join(_ context.Context, c bypass.MemberConfig) (member, error) {
	h.config = c
	h.status = map[bypass.Flow]bypass.Status{}
	return h, nil
}

func (h *fakeHost) note(call string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, call)
}

func (h *fakeHost) count(call string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (h *fakeHost) LinkUp(overlay.PeerID)     { h.note("up") }
func (h *fakeHost) LinkDown(overlay.PeerID)   { h.note("down") }
func (h *fakeHost) Forget(overlay.PeerID)     { h.note("forget") }
func (h *fakeHost) SetPolicy(p bypass.Policy) { h.note("policy") }
func (h *fakeHost) Recheck()                  { h.note("recheck") }

func (h *fakeHost) Receive(_ overlay.PeerID, msg []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received = append(h.received, string(msg))
}

func (h *fakeHost) Attach(_ context.Context, w bypass.Workload) error {
	h.note("attach")
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.attachErr
}

func (h *fakeHost) Detach(context.Context, uint32) error {
	h.note("detach")
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.detachErr
}

func (h *fakeHost) Leave(context.Context) error {
	if h.leaving != nil {
		h.leaving()
	}
	h.note("leave")
	return nil
}

func (h *fakeHost) Request(f bypass.Flow, v bypass.Verdict) {
	h.mu.Lock()
	h.requests = append(h.requests, f)
	h.mu.Unlock()
	if s := h.answer(f, v); s != nil {
		h.tell(*s)
	}
}

func (h *fakeHost) tell(s bypass.Status) {
	h.mu.Lock()
	h.status[s.Flow] = s
	h.mu.Unlock()
	h.config.Changed(s)
}

func (h *fakeHost) Inject(_ context.Context, _ uint32, frame []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if frame[0]&1 == 0 { // introductions are not what these tests are about
		h.injected = append(h.injected, frame)
	}
	return h.injectErr
}

func (h *fakeHost) Flows() []bypass.Status { return nil }

func (h *fakeHost) Status(f bypass.Flow) (bypass.Status, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.status[f]
	return s, ok
}

func (h *fakeHost) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.requests)
}

// bypassPair is a pair whose first node has a fake host and this policy.
func bypassPair(t *testing.T, p bypass.Policy, answer func(bypass.Flow, bypass.Verdict) *bypass.Status) (a, b *node, h *fakeHost) {
	h = &fakeHost{answer: answer}
	l := newLab(t, overlaytest.Config{})
	a, b = l.node(nil), l.node(nil)
	a.withHost(h, p)
	l.mesh(a, b)
	a.run()
	b.run()
	waitLinked(t, a, b)
	return a, b, h
}

func (m *node) withHost(h joiner, p bypass.Policy) {
	m.join, m.shared.Bypass = h, true
	m.policy.Store(&policy{p, 1})
}

func silent(bypass.Flow, bypass.Verdict) *bypass.Status { return nil }

func bypassed(f bypass.Flow, _ bypass.Verdict) *bypass.Status {
	return &bypass.Status{Flow: f, State: bypass.Bypassed, Since: time.Now()}
}
