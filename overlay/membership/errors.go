package membership

import (
	"errors"
	"fmt"

	"github.com/viasnet/vias/overlay"
)

// Why a peer is not admitted. All of them are ErrNotMember, and none is told to the
// peer.
var (
	// ErrNotMember unwraps to overlay.ErrNotAdmitted.
	ErrNotMember = fmt.Errorf("membership: not a member: %w", overlay.ErrNotAdmitted)

	// ErrNothingShown: it showed no certificate. It needs a folder of the authority's.
	ErrNothingShown = why("it has shown no certificate of membership")
	// ErrMalformed: what it showed, or a file, is not what it should be.
	ErrMalformed = why("malformed")
	// ErrOtherKey: the certificate is another peer's.
	ErrOtherKey = why("the certificate is of another key")
	// ErrOtherNetwork: the certificate is of another network.
	ErrOtherNetwork = why("the certificate is of another network")
	// ErrOtherAuthority: none of our authorities signed it.
	ErrOtherAuthority = why("no authority that we know has signed the certificate")
	// ErrExpired: it has ended. A new one has to be issued.
	ErrExpired = why("the certificate has expired")
	// ErrNotYetValid: it has not begun, or our clock is late.
	ErrNotYetValid = why("the certificate is not valid yet, or our clock is late")
	// ErrRevoked: it is on a revocation list.
	ErrRevoked = why("the certificate was revoked")
	// ErrNoList: its authority's revocation list is missing or overdue. See Config.Lists.
	ErrNoList = why("there is no revocation list of the authority, or the next one is overdue")
)

// why is a reason that is ErrNotMember.
func why(text string) error { return &reason{text} }

type reason struct{ text string }

func (r *reason) Error() string { return r.text }

func (r *reason) Unwrap() error { return ErrNotMember }

// Errors of Authorities.
var (
	// ErrExists: there is an authority in that folder, or a second one in it already.
	ErrExists = errors.New("there is one already")
	// ErrLocked: another program uses the folder.
	ErrLocked = errors.New("another program uses the folder")
)
