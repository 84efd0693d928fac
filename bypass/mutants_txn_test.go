package bypass

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDeadlines: how long each phase waits.
func TestDeadlines(t *testing.T) {
	now := moment(1000 * time.Second)
	after := func(d time.Duration) moment { return now.Add(d) }
	for _, c := range []struct {
		phase phase
		event event
		want  moment
	}{
		{phaseOverlay, evStart, after(2 * time.Second)},
		{phaseOffered, evAccept, 0},
		{phaseInstalling, evApplied, after(2 * time.Second)},
		{phaseConfirming, evDone, 0},
		{phasePreparing, evApplied, after(33 * time.Second)}, // the answer, the longer lease, and the drain
		{phaseAccepted, evConfirm, 0},
		{phaseAccepted, evClose, after(time.Second)},
		{phaseActive, evLeave, after(200 * time.Millisecond)},
		{phaseUnbinding, evFailed, after(time.Second)},
		{phaseUnbinding, evApplied, after(time.Second)},
		{phaseClosing, evLinkUp, after(time.Second)},
		{phaseClosing, evCloseAck, after(time.Second)},
		{phaseDraining, evDeadline, 0},
		{phaseRemoving, evUnsure, after(time.Second)},
		{phaseRemoving, evApplied, 0},
	} {
		tx := testTxn()
		tx.phase, tx.since, tx.deadline = c.phase, now, now.Add(time.Hour)
		next, _ := step(tx, input{event: c.event, reason: ReasonPolicy}, now, testLimits)
		require.Equal(t, c.want, next.deadline, "%v meets %v", c.phase, c.event)
	}
}

// TestAcceptInTime: an Accept that comes just in time is used.
func TestAcceptInTime(t *testing.T) {
	now := moment(1000 * time.Second)
	tx, _ := step(testTxn(), input{event: evStart}, now, testLimits)
	tx, _ = step(tx, input{event: evAccept}, now.Add(testLimits.answer), testLimits)
	require.Equal(t, phaseInstalling, tx.phase)
}

// TestFirstReasonCounts: why a flow leaves is what was found first, unless the peer is
// another one by now.
func TestFirstReasonCounts(t *testing.T) {
	now := moment(1000 * time.Second)
	for _, p := range []phase{phaseInstalling, phasePreparing, phaseCompleting} {
		for _, end := range []event{evApplied, evFailed, evUnsure} {
			tx := testTxn()
			tx.phase = p
			tx, _ = step(tx, input{event: evLeave, reason: ReasonPolicy}, now, testLimits)
			tx, _ = step(tx, input{event: evLeave, reason: ReasonShutdown}, now, testLimits)
			require.Equal(t, ReasonPolicy, tx.reason, "%v", p)
			ended, _ := step(tx, input{event: end}, now, testLimits)
			if p != phasePreparing || end != evUnsure {
				require.Equal(t, ReasonPolicy, ended.reason, "%v, %v", p, end)
			}
			tx, _ = step(tx, input{event: evPeerReset}, now, testLimits)
			require.Equal(t, ReasonPeerRestarted, tx.reason, "%v", p)
		}
		tx := testTxn()
		tx.phase = p
		failed, _ := step(tx, input{event: evFailed}, now, testLimits)
		require.Equal(t, ReasonSwitch, failed.reason, "%v", p)
	}
}

// TestUntold: the peer may still send only while it was not told, or has not said, that
// the flow is over.
func TestUntold(t *testing.T) {
	for p := range phases {
		is := p == phaseUnbinding || p == phaseClosing
		require.Equal(t, is, txn{phase: p}.untold(), "%v", p)
		require.False(t, txn{phase: p, peerOff: true}.untold(), "%v", p)
	}
}

// TestRising: what counts in the initiator's window.
func TestRising(t *testing.T) {
	for p := range phases {
		up := p == phaseOffered || p == phaseInstalling || p == phaseConfirming
		require.Equal(t, up, (&txn{phase: p, initiator: true}).rising(), "%v", p)
		require.False(t, (&txn{phase: p}).rising(), "%v", p)
	}
}

// TestDetachedOnly: only a workload that is gone takes its inbound rule with it.
func TestDetachedOnly(t *testing.T) {
	now := moment(1000 * time.Second)
	for reason, acts := range map[Reason]string{ReasonPolicy: "-outbound", ReasonDetached: "-outbound -inbound"} {
		tx := testTxn()
		tx.phase = phaseActive
		next, got := step(tx, input{event: evLeave, reason: reason}, now, testLimits)
		require.Equal(t, acts, words(got))
		require.Equal(t, reason == ReasonDetached, next.detached)
	}
	tx := testTxn()
	tx.phase = phaseActive
	tx, _ = step(tx, input{event: evClose, reason: ReasonDetached}, now, testLimits)
	require.False(t, tx.detached, "that is the peer's")
}
