package bypass

import "context"

// What a malicious peer can say: the tests forge messages of the control protocol.

// Message is a control message.
type Message = message

// Kinds of messages.
const (
	MsgOffer     = msgOffer
	MsgAccept    = msgAccept
	MsgConfirm   = msgConfirm
	MsgReject    = msgReject
	MsgClose     = msgClose
	MsgChallenge = msgChallenge
	MsgReady     = msgReady
	MsgResult    = msgResult
	MsgRefuse    = msgRefuse
	MsgWant      = msgWant
	MsgAlive     = msgAlive
	MsgSync      = msgSync
)

// Encode is a message's bytes; nothing is checked.
func Encode(m Message) ([]byte, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	return c.encode(m)
}

// Decode reads a message as a host does.
func Decode(b []byte) (Message, error) {
	c, err := newCodec()
	if err != nil {
		return Message{}, err
	}
	return c.decode(b)
}

// Held is what a host holds: flows, tuples in use or at rest, jobs and changes that wait.
type Held struct{ Flows, Tuples, Jobs, Changes int }

// Holds tells what m's host holds. It waits for its turn in the loop.
func (m *Member) Holds(ctx context.Context) (h Held, err error) {
	got := make(chan Held, 1)
	m.loop.box.post(func() {
		l := m.loop
		got <- Held{Flows: l.tracked, Tuples: len(l.ports.used), Jobs: l.box.len(), Changes: l.change.len()}
	})
	select {
	case h = <-got:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return h, err
}

func (b *queue[J]) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.jobs)
}

// Limits of what one peer can make a host hold.
const (
	MaxFlows     = maxFlows
	MaxPeerFlows = maxPeerFlows
	MaxChanges   = maxChanges
)
