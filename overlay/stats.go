package overlay

// TransportStats counts what a Transport turned away.
type TransportStats struct {
	// Refused peers: authenticated or announced, but not admitted.
	Refused uint64
	// WrongKey: the other end's key did not match the ID it signalled.
	WrongKey uint64
	// Dropped is the sum of Drops.
	Dropped uint64
	// Drops are all of the Transport's datagrams: those of Links that are, those of Links
	// that were, and those that belong to none.
	Drops Drops
	// Socket is what the Transport's own socket does; zero if it has none. A relay's traffic is not in it.
	Socket Socket
}

// Socket counts the datagrams of a UDP socket, those that belong to no Link included, and the system calls that
// moved them: a bulk of frames should take some 40 to a call.
type Socket struct {
	Sent, Sends        uint64 // datagrams that the kernel took, by so many calls
	Received, Receives uint64 // datagrams that came, by so many calls
	// Segmenting: the kernel cuts runs of datagrams of one size (UDP_SEGMENT, Linux 4.18). It ends
	// where the kernel refuses to; then several go by one call, one by one.
	Segmenting bool
	// Coalescing: the kernel joins them (UDP_GRO, Linux 5.0); else several come by one call, on Linux.
	Coalescing bool
}

// Drops counts dropped datagrams by cause. A Transport has no causes that it does not know.
type Drops struct {
	Truncated uint64 // received: too short for its header, or not of the form
	Foreign   uint64 // received: of no protocol that is spoken here
	Unknown   uint64 // received: names no session that there is, or comes from nobody we asked
	Epoch     uint64 // received: under a key that is not there yet, or not any more
	Replayed  uint64 // received: a second time, or too late to tell
	Forged    uint64 // received: not authentic
	Plaintext uint64 // received: unencrypted, where only a stranger has reason to send that
	Full      uint64 // received: its reader was too slow
	Signals   uint64 // signalling messages: malformed, old, forged, too many, or over a full queue
	TooLong   uint64 // to send: empty, or longer than the path takes; received: than the reader takes
	Unsent    uint64 // to send: the kernel, or the relay, did not take it
}

// Total is the sum of all causes.
func (d Drops) Total() uint64 {
	return d.Truncated + d.Foreign + d.Unknown + d.Epoch + d.Replayed + d.Forged + d.Plaintext +
		d.Full + d.Signals + d.TooLong + d.Unsent
}

// Traffic counts datagrams on a Link's path, and their bytes: what UDP carries, so with what a
// Transport adds, and with its own pings.
type Traffic struct{ Datagrams, Bytes uint64 }

// LinkStats counts what one Link did since it was made. Path has what is not counted: kind,
// addresses, MTU and round-trip time.
type LinkStats struct {
	// Sent was handed to the kernel; Received was authentic and new.
	Sent, Received Traffic
	// Drops are those that are the Link's for certain: what names no session, and what the
	// kernel did not take, is the Transport's.
	Drops Drops
	// Epoch of the keys that frames are sent under, from 1; 0 = the Transport's conservative
	// mode, or there is but one key.
	Epoch uint32
	// Shrunk is how often the path was found to take less than it did before (Path.MTU is
	// what it takes now).
	Shrunk uint64
	// Paths is how many paths the Link has used: 1, and one more for each change.
	Paths uint64
}
