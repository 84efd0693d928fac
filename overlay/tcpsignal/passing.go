package tcpsignal

import (
	"errors"
	"net"
)

// passing tells whether a listener that gave err may accept again: the client has
// gone, or the system has no room for a connection just now.
func passing(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() || shortage(err)
}
