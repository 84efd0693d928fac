// Package bypasstest has what it takes to test bypassed flows without a switch, a
// network or root: a [Switch] is a bypass.Datapath in memory that forwards and
// rewrites real frames, a [Wire] is a provider's network between several of them,
// an [Underlay] says what a kernel would. [RunDatapath] is the suite that every
// Datapath must pass, those on real switches too.
//
// Everything is deterministic: a frame that is sent on a Wire without delay has
// arrived when Send returns. Time is only ever time.Now and time.AfterFunc, so all
// of it runs in a testing/synctest bubble; what of it may be left over at the end
// of a bubble are timers, never goroutines.
//
// The path of a frame that a workload sends:
//
//	Send(ofport) ─ live rule? ─ yes ─> rewritten ─> Wire ─> the peer's Switch
//	                  └ no ─> Tap (the overlay)
//
// and of one that arrives from the wire:
//
//	Wire ─ listen rule? ─> PacketIn (probe)
//	     ─ inbound lease? ─ rule? ─ yes ─> rewritten ─> the port's deliver function
//	     │                   └ no ─> PacketIn (orphan)
//	     ─ guard? ─> PacketIn (guard)
//	     ─ the host's own guard (Underlay.Guard)? ─> dropped and counted
//	     └ Host (the host's own stack); ICMP errors to a guarded address: PacketIn too
//
// All of it is for TCP and UDP over IPv4 and IPv6. Tagged frames, fragments and what is
// behind IPv6 extension headers match no rule.
package bypasstest
