package natssignal

import (
	"fmt"
	"strings"

	"github.com/viasnet/vias/overlay"
)

// prefix of all subjects of messages.
const prefix = "vias.sig."

// Bucket is the key-value bucket of presence, for all networks. Its keys are N.A.
const Bucket = "vias-presence"

// NetworkToken is a network's name as it stands in subjects and keys: lower-case letters, digits and "-" stay, every other byte becomes "_" and two
// hexadecimal digits. Different names have different tokens.
func NetworkToken(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// inboxPrefix is under what the server answers a peer's requests; it is the peer's alone.
func inboxPrefix(id overlay.PeerID) string { return "_INBOX_" + id.String() }

func subject(token string, to, from overlay.PeerID) string {
	return prefix + token + "." + to.String() + "." + from.String()
}

// sender is who a subject says that it is from.
func sender(subject string) (overlay.PeerID, error) {
	return overlay.ParsePeerID(subject[strings.LastIndexByte(subject, '.')+1:])
}

// Permissions are the subjects that a peer needs, in any network: what a server with
// accounts should let it publish and subscribe to, and nothing else. With them it can
// neither read others' messages nor send in others' names. It cannot make the
// buckets either (whoever may make streams may record what is not for him): see
// [KeepBuckets].
func Permissions(id overlay.PeerID) (publish, subscribe []string) {
	self := id.String()
	return []string{
			prefix + "*.*." + self,
			"$KV." + Bucket + ".*." + self, // its own presence
			"$JS.API.INFO",
			"$JS.API.STREAM.INFO.KV_" + Bucket,
			"$JS.API.CONSUMER.CREATE.KV_" + Bucket + ".>", // to read presence
			"$JS.API.CONSUMER.DELETE.KV_" + Bucket + ".>",
			"$JS.FC.KV_" + Bucket + ".>",
			directorySubject + "*.*.*." + self + ".*", // its own claims
			directoryInfo,
			directoryGet,
		}, []string{
			directorySubject + ">",
			prefix + "*." + self + ".*",
			inboxPrefix(id) + ".>",
		}
}
