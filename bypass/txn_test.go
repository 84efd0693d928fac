package bypass

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var testLimits = limits{answer: 2 * time.Second, prompt: 200 * time.Millisecond, retry: time.Second, unsure: 3 * time.Second, lease: 30 * time.Second, drain: time.Second}

func testTxn() txn {
	wire, _ := compact(Flow{TCP, netip.MustParseAddrPort("10.0.0.1:61441"), netip.MustParseAddrPort("10.0.0.2:61442")})
	return txn{
		id: 7, rule: 9, hop: 1, lease: 2, idle: time.Minute,
		ends:  ends{Ofport: 3, LocalMAC: macA, RemoteMAC: macB},
		tuple: wire,
	}
}

// words says what actions are, for comparing.
func words(acts []action) string {
	var out []string
	for _, a := range acts {
		switch a := a.(type) {
		case send:
			out = append(out, a.kind.String())
		case free:
			out = append(out, "free")
		case sever:
			out = append(out, "sever")
		case rewrite:
			for _, d := range a.add {
				out = append(out, "+"+d.String())
			}
			for _, d := range a.remove {
				out = append(out, "-"+d.String())
			}
		}
	}
	return strings.Join(out, " ")
}

// TestStep walks a transaction through scripts of "event → phase: actions".
func TestStep(t *testing.T) {
	type leg struct {
		event event
		phase phase
		acts  string
	}
	up := []leg{{evStart, phaseOffered, "offer"}, {evAccept, phaseInstalling, "+inbound +outbound"},
		{evApplied, phaseConfirming, "confirm"}, {evDone, phaseActive, ""}}
	upB := []leg{{evOffer, phasePreparing, "+inbound"}, {evApplied, phaseAccepted, "accept"},
		{evConfirm, phaseCompleting, "+outbound"}, {evApplied, phaseActive, "done"}}
	down := []leg{{evLeave, phaseUnbinding, "-outbound"}, {evApplied, phaseClosing, "close"},
		{evCloseAck, phaseDraining, ""}, {evDeadline, phaseRemoving, "-inbound"}, {evApplied, phaseOverlay, "free"}}
	downB := []leg{{evClose, phaseUnbinding, "-outbound"}, {evApplied, phaseDraining, "close-ack"},
		{evDeadline, phaseRemoving, "-inbound"}, {evApplied, phaseOverlay, "free"}}
	join := func(parts ...[]leg) (all []leg) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for name, script := range map[string][]leg{
		"initiator, own wish":     join(up, down),
		"initiator, peer's close": join(up, downB),
		"responder, own wish":     join(upB, down),
		"responder, peer's close": join(upB, downB),
		"both close at once":      join(up, down[:2], []leg{{evClose, phaseDraining, "close-ack"}}, down[3:]),
		"close during unbinding":  join(up, down[:1], []leg{{evClose, phaseUnbinding, ""}}, downB[1:]),
		"refused":                 join(up[:1], []leg{{evReject, phaseOverlay, "free"}}),
		"no answer":               join(up[:1], []leg{{evDeadline, phaseOverlay, "close free"}}),
		"switch refuses A":        join(up[:2], []leg{{evFailed, phaseOverlay, "close free"}}),
		"switch unsure at A":      join(up[:2], []leg{{evUnsure, phaseUnbinding, "-outbound"}}, down[1:]),
		"policy while installing": join(up[:2], []leg{{evLeave, phaseInstalling, ""}, {evApplied, phaseUnbinding, "-outbound"}}, down[1:]),
		"close while installing":  join(up[:2], []leg{{evClose, phaseInstalling, ""}, {evApplied, phaseUnbinding, "-outbound"}}, downB[1:]),
		"no done":                 join(up[:3], []leg{{evDeadline, phaseUnbinding, "-outbound"}}, down[1:]),
		"switch refuses B":        join(upB[:1], []leg{{evFailed, phaseOverlay, "reject free"}}),
		"switch unsure at B":      join(upB[:1], []leg{{evUnsure, phaseRemoving, "reject -inbound"}, {evApplied, phaseOverlay, "free"}}),
		"closed while preparing":  join(upB[:1], []leg{{evClose, phasePreparing, ""}, {evApplied, phaseRemoving, "close-ack -inbound"}, {evApplied, phaseOverlay, "free"}}),
		"no confirm":              join(upB[:2], []leg{{evDeadline, phaseRemoving, "-inbound"}, {evApplied, phaseOverlay, "free"}}),
		"policy at B, accepted":   join(upB[:2], []leg{{evLeave, phaseClosing, "close"}}, down[2:]),
		"outbound refused at B":   join(upB[:3], []leg{{evFailed, phaseUnbinding, "-outbound"}}, down[1:]),
		"peer restarts":           join(up, []leg{{evPeerReset, phaseUnbinding, "-outbound"}, {evApplied, phaseDraining, ""}}, down[3:]),
		"idle, with a link":       join(up, []leg{{evIdle, phaseUnbinding, "-outbound"}}, down[1:]),
		"idle without one":        join(up, []leg{{evIdle, phaseActive, "+outbound"}, {evApplied, phaseActive, ""}}, down),
		"idle, and not renewed":   join(up, []leg{{evIdle, phaseActive, "+outbound"}, {evFailed, phaseUnbinding, "-outbound"}}, down[1:]),
		"idle before done":        join(up[:3], []leg{{evIdle, phaseUnbinding, "-outbound"}}, down[1:]),
		"no close-ack":            join(up, down[:2], []leg{{evLinkUp, phaseClosing, "close"}, {evDeadline, phaseClosing, "close"}}, down[2:]),
		"removal refused":         join(up, down[:1], []leg{{evFailed, phaseUnbinding, "leave"}, {evDeadline, phaseUnbinding, "-outbound"}, {evDeadline, phaseUnbinding, "leave"}, {evFailed, phaseUnbinding, "leave"}, {evDeadline, phaseUnbinding, "-outbound"}}, down[1:4], []leg{{evUnsure, phaseRemoving, ""}, {evDeadline, phaseRemoving, "-inbound"}, {evApplied, phaseOverlay, "free"}}),
		"late close is answered":  join(up, down[:3], []leg{{evClose, phaseDraining, "close-ack"}, {evDeadline, phaseRemoving, "-inbound"}, {evClose, phaseRemoving, "close-ack"}}),
	} {
		t.Run(name, func(t *testing.T) {
			now := moment(1000 * time.Second)
			tx := testTxn()
			for i, l := range script {
				in := input{event: l.event, closes: name == "idle, with a link"}
				switch l.event {
				case evLeave, evClose, evReject:
					in.reason = ReasonPolicy
				}
				next, acts := step(tx, in, now, testLimits)
				require.Equal(t, l.phase.String(), next.phase.String(), "leg %d, %v", i, l.event)
				require.Equal(t, l.acts, words(acts), "leg %d, %v", i, l.event)
				if next.phase == phaseOverlay {
					require.NotEqual(t, ReasonNone, next.reason, "back on the overlay without a reason")
				}
				tx = next
				now = now.Add(100 * time.Millisecond)
			}
		})
	}
}

// A Close is repeated until it is answered; soon the path is ended, and in the end the
// peer's leases have run out.
func TestCloseIsRepeated(t *testing.T) {
	for reason, patience := range map[Reason]int{ReasonPolicy: 3, ReasonIdle: 30} { // an idle flow can wait
		t.Run(reason.String(), func(t *testing.T) { closeIsRepeated(t, reason, patience) })
	}
}

func closeIsRepeated(t *testing.T, reason Reason, patience int) {
	now := moment(1000 * time.Second)
	tx := testTxn()
	tx.phase = phaseActive
	tx, _ = step(tx, input{event: evLeave, reason: reason}, now, testLimits)
	tx, acts := step(tx, input{event: evApplied}, now, testLimits)
	require.Equal(t, "close", words(acts))
	closes := 0
	for tx.phase == phaseClosing {
		require.Equal(t, now.Add(testLimits.retry), tx.deadline)
		now = tx.deadline
		tx, acts = step(tx, input{event: evDeadline}, now, testLimits)
		want := "close"
		switch closes++; {
		case closes >= 60:
			want = ""
		case closes >= patience:
			want = "close sever"
		}
		require.Equal(t, want, words(acts), "after %d s", closes)
	}
	require.Equal(t, phaseDraining, tx.phase)
	require.Equal(t, 60, closes, "twice the lease")
}

// An Accept that comes later than the Offer's time is not used: the peer may have
// taken its inbound down already.
func TestLateAccept(t *testing.T) {
	now := moment(1000 * time.Second)
	tx, _ := step(testTxn(), input{event: evStart}, now, testLimits)
	tx, acts := step(tx, input{event: evAccept}, now.Add(testLimits.answer+1), testLimits)
	require.Equal(t, phaseOverlay, tx.phase)
	require.Equal(t, "close free", words(acts))
}

// Whatever event meets whatever phase: rules are only ever added in make-before-break
// order, an inbound is only removed with the own outbound gone, and every phase but
// overlay and active ends by itself (a deadline, or a change that is pending).
func TestEveryPhaseMeetsEveryEvent(t *testing.T) {
	now := moment(1000 * time.Second)
	reach := map[phase][]event{
		phaseOverlay: {}, phaseOffered: {evStart}, phaseInstalling: {evStart, evAccept}, phaseConfirming: {evStart, evAccept, evApplied},
		phasePreparing: {evOffer}, phaseAccepted: {evOffer, evApplied}, phaseCompleting: {evOffer, evApplied, evConfirm},
		phaseActive: {evOffer, evApplied, evConfirm, evApplied}, phaseUnbinding: {evOffer, evApplied, evConfirm, evApplied, evLeave},
		phaseClosing:  {evOffer, evApplied, evConfirm, evApplied, evLeave, evApplied},
		phaseDraining: {evOffer, evApplied, evConfirm, evApplied, evLeave, evApplied, evCloseAck},
		phaseRemoving: {evOffer, evApplied, evConfirm, evApplied, evLeave, evApplied, evCloseAck, evDeadline},
	}
	for p := range phases {
		tx := testTxn()
		for _, e := range reach[p] {
			tx, _ = step(tx, input{event: e, reason: ReasonPolicy}, now, testLimits)
		}
		require.Equal(t, p, tx.phase)
		for e := range events {
			t.Run(fmt.Sprintf("%v/%v", p, e), func(t *testing.T) {
				next, acts := step(tx, input{event: e, reason: ReasonPolicy}, now, testLimits)
				pending := false
				for _, a := range acts {
					if c, ok := a.(rewrite); ok {
						pending = true
						for _, d := range c.add {
							again := p == phaseActive && e == evIdle // it was there until now
							require.True(t, again || d == Inbound || next.phase == phaseInstalling || next.phase == phaseCompleting)
						}
						for _, d := range c.remove {
							require.True(t, d == Outbound || next.phase == phaseRemoving, "inbound removed in %v", next.phase)
						}
					}
				}
				switch next.phase {
				case phaseOffered, phaseConfirming, phaseAccepted, phaseClosing, phaseDraining:
					require.False(t, next.deadline.IsZero(), "%v would wait for ever", next.phase)
				case phaseInstalling, phasePreparing, phaseCompleting, phaseUnbinding, phaseRemoving:
					require.True(t, pending || next.phase == p, "%v has nothing pending", next.phase)
				}
				if e == evClose && p != phaseOverlay && next.phase == phaseOverlay {
					require.Contains(t, words(acts), "close-ack")
				}
			})
		}
	}
}

// TestPurges: any number of rules of one epoch, direction and peer is named once.
func TestPurges(t *testing.T) {
	rule := func(epoch uint16, dir Direction, peer, id uint32) RuleStat {
		return RuleStat{Epoch: epoch, Rule: Rule{Direction: dir, Peer: peer, ID: id}}
	}
	in, out := purges([]RuleStat{
		rule(1, Inbound, 5, 1), rule(1, Outbound, 5, 2), rule(1, Inbound, 5, 3), rule(1, Inbound, 6, 4),
		rule(2, Inbound, 5, 5), rule(1, Outbound, 5, 6), rule(1, Listen, 0, 7), rule(1, Listen, 0, 8), rule(2, Outbound, 5, 9),
	})
	require.Equal(t, []RuleStat{rule(1, Inbound, 5, 1), rule(1, Inbound, 6, 4), rule(2, Inbound, 5, 5)}, in)
	require.Equal(t, []RuleStat{rule(1, Outbound, 5, 2), rule(1, Listen, 0, 7), rule(2, Outbound, 5, 9)}, out)
}
