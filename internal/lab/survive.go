package lab

import (
	"fmt"
	"io"
	"time"
)

// Blow is something that happened to a transfer which it survived.
type Blow struct {
	// What happened, in words.
	What string
	// Gap is the longest time after it in which no byte arrived, in either direction.
	Gap time.Duration
	// Back is how long after it both nodes had the flow bypassed again.
	Back time.Duration
}

// String is one line.
func (b Blow) String() string {
	return fmt.Sprintf("%-46s longest gap %4.1f s, bypassed again after %4.1f s", b.What+":", b.Gap.Seconds(), b.Back.Seconds())
}

// Survival is the result of Survive.
type Survival struct {
	Blows []Blow
	// There and Back are the bytes that the client sent and those that it got. Their
	// checksums were those of what the server got and sent.
	There, Back uint64
}

// Print writes the last line, that of the checksums.
func (s Survival) Print(out io.Writer) {
	fmt.Fprintf(out, "%.1f MB there and %.1f MB back over one TCP connection: the checksums are equal\n", float64(s.There)/1e6, float64(s.Back)/1e6)
}
