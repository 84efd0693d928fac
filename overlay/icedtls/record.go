package icedtls

import "encoding/binary"

// Layout of the records of a DTLS datagram, RFC 6347, section 4.1, and of the
// handshake messages in them, section 4.2.2.
const (
	recordHeader    = 13 // type, version, epoch, sequence number, length
	recordEpoch     = 3
	recordChange    = 20
	recordHandshake = 22
	messageHeader   = 12 // type, length, sequence number, fragment offset, fragment length
	messageSequence = 4
	messageFragment = 9 // length of the fragment
	// lastPlainMessage is the highest sequence number of a handshake message that
	// goes unencrypted: ServerHelloDone, behind ServerHello, Certificate,
	// ServerKeyExchange and CertificateRequest. There is no HelloVerifyRequest.
	lastPlainMessage = 4
)

// plaintext says what unencrypted records a datagram has.
type plaintext uint8

const (
	plainNone   plaintext = iota
	plainRepeat           // such as a peer sends again that has not seen our last flight
	plainBad              // anything else, or the datagram is malformed
)

// plaintextIn walks the records of a DTLS datagram. They are authenticated when
// they are of an epoch above 0; the others anybody can send, who can write the
// peer's address as the source or knows a connection ID. Once the handshake is
// complete, pion ends the association for most of them, or keeps them for ever (a
// handshake message of the future). Only a peer that missed our last flight has
// reason to send any: it repeats its own.
func plaintextIn(d []byte) plaintext {
	found := plainNone
	for len(d) > 0 {
		header := recordHeader
		if d[0] == recordWithCID {
			header += cidLength
		}
		if len(d) <= header {
			return plainBad // as pion says: not even an empty record ends there
		}
		end := header + int(binary.BigEndian.Uint16(d[header-2:]))
		if end > len(d) {
			return plainBad
		}
		if binary.BigEndian.Uint16(d[recordEpoch:]) == 0 {
			if !repeatable(d[0], d[header:end]) {
				return plainBad
			}
			found = plainRepeat
		}
		d = d[end:]
	}
	return found
}

// repeatable tells whether a record of epoch 0 can be of a flight that is repeated.
func repeatable(kind byte, body []byte) bool {
	switch kind {
	case recordChange:
		return len(body) == 1 && body[0] == 1
	case recordHandshake:
		return repeatableMessages(body)
	}
	return false
}

func repeatableMessages(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		if len(b) < messageHeader || binary.BigEndian.Uint16(b[messageSequence:]) > lastPlainMessage {
			return false
		}
		end := messageHeader + int(b[messageFragment])<<16 + int(binary.BigEndian.Uint16(b[messageFragment+1:]))
		if end > len(b) {
			return false
		}
		b = b[end:]
	}
	return true
}
