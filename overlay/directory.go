package overlay

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/viasnet/vias/tap"
)

// Directory is where nodes say which endpoints they have, and find out who has others'.
// docs/directory.md says what it is for and the format of what is kept in it.
//
// It is not trusted. Whoever reads verifies every entry ([OpenEntry]), so a Directory can
// neither invent one nor change it; it can hide entries, show old ones until they expire, and it
// decides who came first. It is meant to be a key-value store; nothing in it has to survive
// a restart, since every node publishes its entries anew every third of their life.
//
// What is away is not an error of opening: a Directory opens at once, its methods fail
// while it cannot be reached, and work again when it can. All methods may be called by
// several goroutines.
type Directory interface {
	// Publish keeps our record under all of its entry's Keys, in place of the one that we
	// have there for the same MAC, and no longer under keys that only the earlier one had. It is
	// forgotten when the entry's Life has passed, counted from now by the Directory's own
	// clock, and not much later. A record of another identity's is refused.
	//
	// Many nodes may claim the same address, and none can take it from another: each has its
	// own claim. See Claim.Order.
	Publish(ctx context.Context, r Record) error
	// Withdraw forgets our record for mac under all its keys; that there is none is no error.
	Withdraw(ctx context.Context, mac tap.MAC) error
	// Lookup lists the claims to a key, the first first, at most MaxClaims: none is no error.
	// An error means that the Directory could not be asked. What was published or withdrawn
	// just now may not be seen for some moments.
	Lookup(ctx context.Context, key DirectoryKey) ([]Claim, error)
	// Watch calls changed when the claims to key may have changed, until stop is
	// called: soon after another node published or withdrew, and after a time in which changes may
	// have been missed. It need not be called for what we do ourselves, and may be called
	// for nothing. changed must not block. Watching works, too, while the
	// Directory is away, and says that it is back. It is not told of claims that expire.
	//
	// It does not wait until a server knows of it: a change may go untold that was made before a Lookup
	// that was asked after Watch is answered. So watch first, look up then.
	Watch(key DirectoryKey, changed func()) (stop func())
	// Close ends all calls, with ErrClosed. What was published stays until it expires.
	Close() error
}

// Claim is what a Directory keeps for one node and one key.
type Claim struct {
	// Signed is the record, as it came: not verified.
	Signed []byte
	// Order is the Directory's word for who came first: the lower. It is given when the node's
	// claim to this key begins, and kept as long as the claim is renewed before it
	// expires; a claim that ended and begins anew is behind all others. The
	// claimant has no part in it: in a key-value store it is the revision at which a key was
	// created that is made once for each claim, beside the record that is renewed.
	Order uint64
}

// MaxClaims is how many claims to a key a Directory lists at most.
const MaxClaims = 16

// DirectoryEnv is what a Directory is opened with. The core fills it in.
type DirectoryEnv struct {
	Identity *Identity
	Network  string       // its name: networks are apart
	Logger   *slog.Logger // never nil
}

// DirectoryOpener opens a Directory when a Network runs.
type DirectoryOpener func(context.Context, DirectoryEnv) (Directory, error)

// DirectoryKey is what entries are found by. It consists of letters, digits, "-", "_" and one
// dot, and has at most MaxKey bytes. Equal keys are the same.
type DirectoryKey string

// MaxKey is the longest DirectoryKey in bytes.
const MaxKey = 2 + 3*MaxEntryText

// KeyMAC is the key of a MAC address.
func KeyMAC(m tap.MAC) DirectoryKey { return DirectoryKey(hexKey("m.", m[:])) }

// KeyIP is the key of an IPv4 or IPv6 address.
func KeyIP(a netip.Addr) DirectoryKey {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return DirectoryKey(hexKey("4.", b[:]))
	}
	b := a.As16()
	return DirectoryKey(hexKey("6.", b[:]))
}

// KeyName is the key of an endpoint's name. Names that differ in the case of ASCII letters only
// have the same, as in DNS.
func KeyName(name string) DirectoryKey {
	k := []byte("n.")
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			k = append(k, c+'a'-'A')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
			k = append(k, c)
		default:
			k = append(k, '_', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return DirectoryKey(k)
}

const hexDigits = "0123456789abcdef"

func hexKey(kind string, b []byte) string {
	var s strings.Builder
	s.WriteString(kind)
	for _, c := range b {
		s.WriteByte(hexDigits[c>>4])
		s.WriteByte(hexDigits[c&15])
	}
	return s.String()
}
