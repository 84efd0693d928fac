package natssignal

import "time"

// Impatient makes Signalers that ask often whether their server is there.
func (c Config) Impatient() Config {
	c.pingInterval = 200 * time.Millisecond
	return c
}

// SealPresence and OpenPresence are for tests of what others might put into the bucket.
var (
	SealPresence = sealPresence
	OpenPresence = openPresence
)
