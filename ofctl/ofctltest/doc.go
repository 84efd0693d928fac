// Package ofctltest is an OpenFlow 1.3 switch in memory, for tests and for hosts
// without Open vSwitch. [Switch] forwards real Ethernet frames through flow tables
// and groups, rewrites headers and checksums, expires flows, and does NORMAL
// layer-2 forwarding with VLAN access ports, in the ways of Open vSwitch 3.1. It
// implements [ofctl.Switch], and [Serve] serves it as OpenFlow on a socket, so that
// ofctl.Dial talks to it as to the real one.
//
// Where OpenFlow leaves a choice it chooses as Open vSwitch does: MODIFY changes
// instructions only and restarts the hard time-out; ADD over an entry keeps its
// counters; a miss in a later table still runs the action set; no fragment has
// ports. It differs in this: packet-ins are cut to max_len (Open vSwitch, which has
// no buffers, sends all), goto a table that does not exist is refused, and there are no
// tunnels, queues, VLAN priorities, SCTP, flow labels or link-layer addresses of ND to
// match.
//
// A Switch misbehaves on request: stale caches ([Switch.SetStale]), refusals
// ([Switch.FailNext]), lost replies ([Switch.LoseNext]), stalls ([Switch.Stall]),
// lost connections ([Switch.Disconnect]) and restarts ([Switch.Restart]).
//
// [RunConformance] is the suite that this switch and Open vSwitch both pass: what
// it does not cover, nobody should build on.
//
// Time is package time, as it is: inside testing/synctest time-outs are virtual.
package ofctltest
