package udpio

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestAlignment: control messages are read and written as the structs that they are, which
// some processors do only where these are aligned.
func TestAlignment(t *testing.T) {
	require.Zero(t, unsafe.Offsetof(call{}.control)%unsafe.Alignof(unix.Cmsghdr{}))
	require.Zero(t, unsafe.Alignof(call{})%unsafe.Alignof(unix.Cmsghdr{}))
}
