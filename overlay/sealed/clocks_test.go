package sealed

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/overlay/overlaytest"
)

// Clocks that differ are said to, once, at both ends; those that do roughly agree are not.
func TestClocksAreToldToDiffer(t *testing.T) {
	for skew, want := range map[time.Duration]int{-15 * time.Minute: 1, 15 * time.Minute: 1, time.Minute: 0} {
		bubble(t, func(t *testing.T) {
			var logs [2]bytes.Buffer
			open := func(c *carrier, i int, skew time.Duration) *node {
				return c.open(t, overlaytest.NewIdentity(t), Config{
					Logger: slog.New(slog.NewTextHandler(&logs[i], nil)),
					clock:  func() time.Time { return time.Now().Round(0).Add(skew) },
				})
			}
			c := newCarrier()
			a, b := open(c, 0, 0), open(c, 1, skew)
			for range 3 {
				a.say(t, b, "x")
				b.say(t, a, "y")
			}
			require.Len(t, a.hears(t), 3)
			require.Len(t, b.hears(t), 3)
			for i, sign := range []time.Duration{1, -1} {
				require.Equal(t, want, strings.Count(logs[i].String(), "\n"), "%s", logs[i].String())
				if want > 0 {
					require.Contains(t, logs[i].String(), "clock and ours differ")
					require.Contains(t, logs[i].String(), "ahead="+(sign*skew).String())
				}
			}
		})
	}
}
