// Package vias gives the workloads of one node (containers, virtual machines,
// processes with a TAP of their own) a place on a layer-2 network that spans
// clouds. A program embeds it: an orchestrator, a container runtime, an agent.
//
// Every node runs a [Network]. It links to the other nodes' over an encrypted
// peer-to-peer overlay, through NATs, and forwards Ethernet frames. Where two nodes
// prove that they stand in one provider network, and both hosts' policies agree, it
// moves TCP and UDP flows, one by one, to a bypass: each node's switch rewrites the flow to
// the hosts' own addresses and back, and its packets cross the provider's network
// natively, with no tunnel, no encryption and no trip through user space. Losing the
// bypass never loses the flow: it comes back to the overlay.
//
// It is not a VPN client, not a container network plugin, and not a router: it does
// not hand out addresses, filter traffic or connect to other networks. It never
// changes the host's addresses, nor puts a network card into a bridge.
//
// # Quick start
//
//	identity, err := overlay.OpenIdentity("node.pem") // made when there is none
//	...
//	network, err := vias.New(vias.Config{
//		Name:      "blue",
//		Identity:  identity,
//		Transport: icedtls.Open(icedtls.Config{Signal: tcpsignal.Dial("rendezvous:7000")}),
//		Device:    tap.Linux("vias0"),
//	})
//	...
//	network.AddPeer(other) // the other node's overlay.PeerID
//	network.Attach(ctx, vias.Endpoint{
//		Name: "web-1",
//		MAC:  mac,
//		IPs:  []netip.Addr{netip.MustParseAddr("10.0.0.1")},
//	})
//	err = network.Run(ctx) // until ctx ends
//
// # Words
//
// Directions are relative to the host: outbound is from a workload to the links or
// the provider's network, inbound the reverse. A frame is Ethernet's (layer 2), a
// packet IP's (layer 3). A peer is another node; an endpoint a workload's interface.
// The underlay is the provider's network, the uplink the host's way to it. An ofport
// is a port's number in the bypass host's switch.
//
// # Lifecycle
//
// A [Config] is a blueprint, and [New] only checks it. [Network.Run] opens device
// and transport, joins the bypass host, and owns every goroutine; it can be called
// once and returns when its context ends. [Network.Ready] waits until everything is
// open. Fatal, so that Run returns an error, are only: what cannot be opened, and the
// end of device or transport. Links, signalling and the switch may come and go.
//
// When the context ends, bypassed flows are taken down in order, which takes at most
// [Config].Drain, peers are told, and links, transport and device are closed.
//
// # Peers
//
// A peer is named by the hash of its public key, so knowing its ID is enough to know
// whom one talks to. [Network.AddPeer] is intent: a link is made, and made again,
// until [Network.RemovePeer]. Both ends must name the same network. [Network.Peers]
// says how each of them is.
//
// Who may be linked is the network's rule, [Config].Admission. Without one, the peers
// that were added are the allow-list. Package overlay/membership has an allow-list that
// adds nobody, and membership that a certificate authority signs. A peer that is not
// admitted learns nothing but that; one that is no longer admitted loses its link within a
// second, and its bypassed flows within another.
//
// # Endpoints
//
// [Network.Attach] makes an endpoint known here and to all peers, and
// [Network.Detach] takes it back. A workload may send only from addresses that it
// was attached with, and a peer's frames are taken only from addresses that this
// peer announced: who speaks for an address first, keeps it, and local endpoints
// always win. With [Config].Learn, stations that were not attached may send too; they
// are learned from their frames.
//
// Frames go from the device to links, or from a link to the device, and never from
// link to link, so there are no loops. Frames between local endpoints are the
// switch's job. Broadcast, multicast and unknown destinations go to every peer.
//
// # Directory
//
// With [Config].Directory a node links to those peers only that its workloads talk to. Endpoints
// are published, and looked up when the first frame to one comes, which waits meanwhile. ARP requests
// and neighbour solicitations are answered on the node, so endpoints have to list their
// addresses. Links that nobody uses are closed; those to added peers stay. Two nodes that have
// endpoints of the same address both hear of it (Conflict, [Network.Directory]); who came first
// keeps it. The directory is not trusted: entries are signed by their nodes. While it is away, what is
// known goes on.
//
// Workloads may have the underlay's MTU, 1500 or 9000: what no datagram of a link holds
// is cut into smaller TCP segments, or into fragments that are put together before they
// reach the peer's device. Only what that device would not take is dropped, and its
// sender told (ICMP): give workloads an MTU of at most [Network.MTU].
// [Network.Stats] counts every dropped frame by its cause.
//
// # Policy
//
// A bypass.Policy decides for each flow whether it may leave the overlay, and so its
// encryption. It sees the five-tuple, the peer, and both endpoints' tags. Both ends
// are asked. The default is that nothing leaves. [Network.SetPolicy] replaces it; live
// flows follow.
//
// # Bypass
//
// [Config].Bypass is the machine's bypass.Host: it holds the switch and the uplink,
// and Networks of one machine share it. Only flows between endpoints with listed IP
// addresses can be bypassed, and the local one needs its Ofport. The first packet of
// a TCP connection is held for some milliseconds meanwhile, if the policy wants the
// flow bypassed at once. A UDP flow goes on over the overlay meanwhile, and is worth a
// bypass only when it is more than a question and an answer.
//
// [Network.Flows] lists flows and where they are. [Network.Explain] says for any
// five-tuple why it is not bypassed, and what would have to change.
//
// # Events
//
// [Network.Events] is for people and for waking up: events are hints, may be lost
// (Lagged says how many), and never hold the network up. The truth is in the
// snapshots.
package vias
