package itest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The datapaths of Open vSwitch, as package lab names them.
const (
	TSO    = "tso"    // in user space, with userspace-tso-enable
	Plain  = "plain"  // in user space, without
	AFXDP  = "afxdp"  // in user space, with AF_XDP sockets for ports
	System = "system" // the kernel's
)

// Datapath is the one that tests are to run on, by the variable VIAS_DATAPATH; TSO
// where it is not set. This is the only place that reads it.
func Datapath(tb testing.TB) string {
	tb.Helper()
	d := os.Getenv("VIAS_DATAPATH")
	if d == "" {
		return TSO
	}
	if known := []string{TSO, Plain, AFXDP, System}; !slices.Contains(known, d) {
		tb.Fatalf("VIAS_DATAPATH=%s: want one of %s", d, strings.Join(known, ", "))
	}
	return d
}

// BridgeType is Open vSwitch's datapath_type of a bridge of that Datapath.
func BridgeType(tb testing.TB) string {
	tb.Helper()
	if Datapath(tb) == System {
		return "system"
	}
	return "netdev"
}

// NotOn skips the test on a datapath that cannot do what it needs, and says why. Unlike
// a missing program this is no failure under VIAS_MUST_RUN=1: nothing could be installed.
func NotOn(tb testing.TB, datapath, why string) {
	tb.Helper()
	if Datapath(tb) == datapath {
		tb.Skipf("not on the datapath %q: %s", datapath, why)
	}
}

// RequireNFT is Require("nft") and a kernel that has nftables for IP. Debian's
// user-mode-linux, in which make test-kernel runs, has them for bridges alone: there, and
// only there, the test is skipped under VIAS_MUST_RUN=1 too.
func RequireNFT(tb testing.TB) {
	tb.Helper()
	Require(tb, "nft")
	// The kernel checks it, and makes nothing.
	out, err := exec.Command("nft", "-c", "table inet vias_itest { chain c { type filter hook input priority 0; }; }").CombinedOutput()
	switch {
	case err == nil:
	case Datapath(tb) == System:
		tb.Skipf("this kernel has no nftables for IP (user-mode-linux: CONFIG_NF_TABLES_INET is not set)")
	default:
		stop(tb)("integration test: nftables do not work here: %s", out)
	}
}
