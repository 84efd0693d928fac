// Package ovsdb watches what Open vSwitch's database says of bridges, ports and
// interfaces: the names, types, VLANs, OpenFlow numbers and external_ids that others
// gave them. It reads only.
//
//	w, err := ovsdb.New(ovsdb.Config{Address: "unix:/run/openvswitch/db.sock"})
//	…
//	err = w.Run(ctx, func(v *ovsdb.View) { … }) // after every change, a whole View
//
// # The protocol
//
// It is JSON-RPC 1.0 over a stream (RFC 7047): one "monitor" request for three tables,
// then "update" notifications, and "echo" both ways. It is spoken here, with the standard
// library alone, and not through github.com/ovn-kubernetes/libovsdb (v0.8.1), which was
// weighed: that is a database client with a model, a cache with indexes, an API for
// conditions and transactions and a validator, and links packages for logging, metrics and
// JSON-RPC beside. What is wanted of it is one monitor of three tables, whose updates carry
// whole rows: some 400 lines here. A program that imports this package links nothing but
// the standard library. And what happens when the server goes away is plain: the connection
// and all that was known by it is dropped, and the next one begins with the whole content.
// There is no state to be merged, so nothing is lost or doubled.
//
// # Losing the server
//
// The last View stays good while the server is away: its ports forward all the same. Run
// connects again with back-off, and calls with a View again when it has a whole one. A
// server that is there and says nothing is asked for an echo, and given up without.
package ovsdb
