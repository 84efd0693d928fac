// Package discover finds the workloads of a node at its Open vSwitch bridge, so that
// nobody has to configure them: a workload port that appears on the bridge is attached,
// with its MAC and IP addresses, and detached when it goes.
//
//	d, err := discover.New(discover.Config{
//		Bridge: "br0", Device: "vias0", Uplink: "eth0", Sink: sink,
//		Dial: ofctl.Dialer("unix:/run/openvswitch/br0.mgmt", ofctl.Config{}),
//	})
//	…
//	err = d.Run(ctx)
//
// A [Sink] is what has Attach and Detach: a vias.Network with few words around it.
//
// # Which ports are workloads
//
// Those that share the VLAN of Config.Device, the overlay's own port, and whose interface
// is a device of the host, or another kind that guests have (dpdkvhostuser…). Tunnels,
// patch ports, the bridge's own port, bonds, the uplink, the device itself and what
// somebody else's external_ids declare to be no workload never are; an internal port is
// one only if its external_ids name an endpoint.
//
// # How addresses are known
//
// From external_ids of the interface or the port (see docs/discovery.md for whose keys).
// What they do not say is learned from the workload's ARP, neighbour discovery (RFC 6620
// has the idea) and DHCP requests: copies that the switch sends up. A learned
// port has one MAC, its first, until the port goes, and at most Config.MaxLearned
// addresses. What is in external_ids, or attached, or announced by a peer (Config.Holder)
// is never taken by learning: the claim is refused, counted and tried again later.
//
// # What learning does in the switch
//
// For each port with something to learn there are flows of low priority in table 0, which forward by NORMAL
// and continue in Config.Table, where a metered copy goes to the controller. Addresses
// that are known go past them, so an honest workload sends nothing up once it is learned; DHCP is
// not looked at when the MAC is known. Each port has a meter of its own: none takes another's share. Where
// the bridge does not forward by NORMAL, set Config.NoLearning.
//
// # Losing the database or the switch
//
// What is attached stays while either is away. When ovsdb-server comes back its whole
// content is compared with what is attached. A port whose number is not known for the
// moment, as while ovs-vswitchd starts, stays as it is.
package discover
