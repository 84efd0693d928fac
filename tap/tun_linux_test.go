package tap

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Each failure that a user can mend says how.
func TestTUNRemedies(t *testing.T) {
	for _, c := range []struct {
		explain func(error) error
		err     error
		want    string
	}{
		{explainOpen, unix.ENOENT, "modprobe tun"},
		{explainOpen, unix.ENODEV, "modprobe tun"},
		{explainOpen, unix.EACCES, "run as root"},
		{explainOpen, unix.EMFILE, "/dev/net/tun: too many open files"},
		{explainAttach, unix.EPERM, "CAP_NET_ADMIN"},
		{explainAttach, unix.EBUSY, "another process holds this TAP"},
		{explainAttach, unix.EINVAL, "no single-queue TAP"},
		{explainAttach, unix.ENOMEM, "attach: cannot allocate memory"},
	} {
		err := c.explain(c.err)
		require.ErrorIs(t, err, c.err)
		require.ErrorContains(t, err, c.want)
	}
}

// TestAcknowledged: what the kernel says, and what it does not.
func TestAcknowledged(t *testing.T) {
	require.Len(t, setLink(7, 60000), int(setLink(7, 60000)[0]))
	answer := func(kind uint16, errno int32) []byte {
		b := make([]byte, unix.SizeofNlMsghdr)
		binary.NativeEndian.PutUint16(b[4:], kind)
		return binary.NativeEndian.AppendUint32(b, uint32(errno))
	}
	require.NoError(t, acknowledged(answer(unix.NLMSG_ERROR, 0)))
	require.ErrorIs(t, acknowledged(answer(unix.NLMSG_ERROR, -int32(unix.EPERM))), unix.EPERM)
	require.Error(t, acknowledged(answer(unix.NLMSG_DONE, 0)))
	require.Error(t, acknowledged(answer(unix.NLMSG_ERROR, 0)[:17]))
	require.Error(t, acknowledged(nil))
	require.Error(t, setSuperFrame("no-such-link", 60000))
}
