// Package membership has rules of who belongs to a network, ready made
// ([overlay.Admission]): [AllowList], and [Member], for which a certificate
// authority ([Authority]) signs who is a member. docs/membership.md has the design
// and what it guarantees.
//
// # A member
//
//	rule, err := membership.Open(membership.Config{Network: "blue", Self: identity.ID(), Dir: "/var/lib/agent/blue"})
//	...
//	go rule.Run(ctx) // reads the folder's changes
//	network, err := vias.New(vias.Config{Name: "blue", Identity: identity, Admission: rule, ...})
//
// The folder comes from the authority, which writes one for each member.
//
// # The authority
//
// An [Authority] is a folder too, with keys in it; it is used by one program at a time,
// and need not be reachable from any node. [Request] is what a node gives to it.
package membership
