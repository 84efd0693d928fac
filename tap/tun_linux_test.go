package tap

import (
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
