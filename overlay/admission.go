package overlay

import "errors"

// MaxCredential is the longest credential in bytes.
const MaxCredential = 8 << 10

// ErrNotAdmitted: our own rule does not admit the peer. What it wraps or is wrapped
// with says why; the peer learns nothing of that.
var ErrNotAdmitted = errors.New("overlay: peer not admitted")

// Admission is the rule of who belongs to a network. A network is its name and this
// rule; package overlay/membership has rules ready made.
//
// A Transport shows our Credential to the peers that it links to, and asks Admit
// before a peer learns anything: with what the peer showed, once it is certain that
// the holder of the peer's key showed it, and again, without, when the Link stands. It
// does not tell a peer more than that it was refused. The core asks Admit again for as long
// as a Link lives, and ends the Link within a second of an error.
//
// Both methods may be called by several goroutines, and must not block.
type Admission interface {
	// Credential is what we show to peers, at most MaxCredential bytes; nil =
	// nothing. It may change; linked peers are then shown the new one. It is read, not changed.
	Credential() []byte
	// Admit says whether peer may be linked now: nil = yes, else why not, for our
	// own eyes. credential is what the peer has just shown; empty = nothing, then what it
	// showed earlier counts, if the rule remembers that. It may be kept, and is not changed.
	Admit(peer PeerID, credential []byte) error
}

// AdmitFunc is an Admission that asks for no credentials. It must not block and may
// be called by several goroutines.
type AdmitFunc func(peer PeerID) bool

// Credential is none.
func (AdmitFunc) Credential() []byte { return nil }

// Admit asks f.
func (f AdmitFunc) Admit(peer PeerID, _ []byte) error {
	if !f(peer) {
		return ErrNotAdmitted
	}
	return nil
}
