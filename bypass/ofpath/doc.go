// Package ofpath is a bypass.Datapath on an OpenFlow 1.3 switch: it turns rules and
// leases into flows, and what the switch reports into events. The switch must have
// atomic bundles, nw_frag, masked ports, and learn with delete_learned; Open vSwitch
// has.
//
// # The pipeline
//
// Exact rules (one for each direction of a flow) carry no lease. Gates and a tether do,
// a fixed number for each peer and protocol, so a lease costs three flow-mods to renew,
// however many rules stand behind it. Behind a dead gate rules are inert; with a peer's
// last tether they go. All that Set and leases make has a hard time-out. This is one TCP
// bypass as ovs-ofctl dumps it (testdata/pipeline.txt, broken into lines). The workload
// 192.168.7.1 is at port 3, its peer is 192.168.7.9, the hosts are 10.1.0.1 and 10.1.0.2,
// the uplink is port 1. Over IPv6 it is the same with tcp6 and udp6 (testdata/pipeline6.txt):
//
//	table 0: whose is it?
//	  cookie=0x7661004d00000003, hard_timeout=60, priority=300,tcp,in_port=3,vlan_tci=0x0000/0x1fff,    workload
//	      dl_src=02:0a:00:00:00:01,nw_src=192.168.7.1,nw_frag=no actions=goto_table:20                  (and udp)
//	  cookie=0x7661004d00000005, hard_timeout=30, priority=300,tcp,in_port=1,vlan_tci=0x0000/0x1fff,    inbound gate
//	      nw_src=10.1.0.2,nw_dst=10.1.0.1,nw_frag=no,tp_dst=0xf000/0xf000 actions=goto_table:10
//	  cookie=0x7661004d00000000, hard_timeout=60, priority=290,tcp,in_port=1,                           guard
//	      nw_src=10.1.0.2,nw_dst=10.1.0.1,tp_dst=0xf000/0xf000 actions=meter:30305,CONTROLLER:96        (and udp)
//	  cookie=0x7661004d00000000, hard_timeout=60, priority=290,icmp,in_port=1,                          ICMP errors
//	      vlan_tci=0x0000/0x1fff,nw_dst=10.1.0.1,nw_frag=no,icmp_type=3 actions=NORMAL,goto_table:10    (and others)
//	  priority=0 actions=NORMAL                                                                         the host's own
//	table 10: inbound rules
//	  cookie=0x7661004d00000005, send_flow_rem priority=100,tcp,in_port=1,
//	      nw_src=10.1.0.2,nw_dst=10.1.0.1,tp_src=61440,tp_dst=61731
//	      actions=set_field:02:0b:00:00:00:01->eth_src,set_field:02:0a:00:00:00:01->eth_dst,
//	      set_field:192.168.7.9->ip_src,set_field:192.168.7.1->ip_dst,
//	      set_field:80->tcp_src,set_field:20291->tcp_dst,output:3
//	  cookie=0x7661004d80000001, hard_timeout=60, priority=50,icmp actions=meter:30307,CONTROLLER:65535 ICMP errors
//	  cookie=0x7661004d00000000, hard_timeout=60, priority=0 actions=meter:30305,CONTROLLER:96          orphan
//	table 20: outbound rules only write down what would be done
//	  cookie=0x7661004d00000005, idle_timeout=60, send_flow_rem priority=100,tcp,in_port=3,
//	      dl_src=02:0a:00:00:00:01,dl_dst=02:0b:00:00:00:01,
//	      nw_src=192.168.7.1,nw_dst=192.168.7.9,tp_src=20291,tp_dst=80
//	      actions=write_actions(set_field:10.1.0.1->ip_src,set_field:10.1.0.2->ip_dst,
//	      set_field:61731->tcp_src,set_field:61440->tcp_dst,group:1986068481),
//	      write_metadata:0x4d000005,goto_table:21
//	  cookie=0x7661004d00000000, hard_timeout=60, priority=0 actions=NORMAL
//	table 21: outbound gates decide whether it is done
//	  cookie=0x7661004d00000005, hard_timeout=25, priority=100,tcp,metadata=0x4d000005 actions=drop     gate
//	  cookie=0x7661004d00000000, hard_timeout=60, priority=0 actions=NORMAL,clear_actions               overlay
//	table 22: tethers hold the rules of tables 10 and 20; nothing leads here
//	  cookie=0x7661004d00000005, hard_timeout=30, priority=100,tcp,metadata=0x4d000005                  tether
//	      actions=learn(table=20,delete_learned,cookie=0x7661004d00000005),
//	      learn(table=10,delete_learned,cookie=0x7661004d00000005)
//	group_id=1986068481,type=indirect,bucket=actions=set_field:02:0c:00:00:00:01->eth_src,
//	    set_field:02:0c:00:00:00:02->eth_dst,output:1                                                   next hop
//	meter=30305 pktps burst stats bands=type=drop rate=100 burst_size=100                               orphans, guard
//	meter=30306 pktps burst stats bands=type=drop rate=2000 burst_size=2000                             probes
//	meter=30307 pktps burst stats bands=type=drop rate=100 burst_size=100                               ICMP errors
//
// The outbound gate has no instruction, which ovs-ofctl prints as drop: the pipeline
// ends there, and the action set is executed as the exact rule wrote it. Where there
// is no gate, the frame goes on unchanged and the action set is thrown away. Listen
// rules stand above the gates, with priority 310 and meter:30306,CONTROLLER:65535.
//
// The meters bound what packets cost that anybody on the provider's network can send and
// that go up to us. They are no part of bundles: Set makes them before the flows that name
// them. A switch without meters does without.
//
// A meter drops whatever its flow would do. The host must get every ICMP error, so what
// forwards it and what copies it up are two flows: NORMAL in table 0 has happened when the
// meter of the copy, in table 10, drops the rest. The copy is whole. With a switch that has no
// meters only the queue of Watch bounds the copies.
//
// The tether is never executed. It is there for what Open vSwitch does when it goes, by
// its time-out too: it deletes all flows of these tables with that cookie, unless
// another flow (the tether of another protocol or family) has the same action. It lives as long
// as the longer half of its lease.
//
// A tether must be younger than every rule with a time-out that it holds: Open vSwitch
// 3.1 visits flows that may have run out in the order in which they were added, and
// ovs-vswitchd dies of a failed assertion when a tether takes a rule along that comes
// later and has run out too. So each change that adds rules adds their tethers anew,
// behind them (tie, in book.go).
//
// # Whose flow is it?
//
// A cookie is tag(16) | epoch(16) | whose(32): the peer's number in its rules, gates and
// tethers, the ofport in a workload's flow, 2^31 in a listen rule, 2^31+1 in what sends ICMP
// errors up, 0 in others. The kind
// is told by table and priority. The ID of a rule is not in the switch: rules are told
// apart by their matches. Metadata is epoch(16) | peer(24), so a lease never revives
// outbound rules of an earlier run that numbered its peers otherwise. Inbound gates go by
// addresses, and let packets through to rules of any epoch: who allocates ports must not
// hand out those of rules that Rules still lists.
//
// # What a dead process leaves
//
// Gates, tethers and with these the rules go with their leases; misses, workloads and
// guard with Base.Lease. A guard is not deleted by the next run, either. Then nothing is left but groups and meters that no flow
// refers to. They have no time-out: the first Set of the next run deletes the groups that
// it does not need, and takes over the meters. Rules that were added before their peer's
// first lease would stay; whoever applies changes puts the lease into the same one, or an
// earlier one.
//
// # Who else may program the switch, and where the uplink is
//
// docs/pipeline.md walks through all of this table by table, also for two more layouts: the uplink and the
// host's address on another bridge than the workloads ([External]), and a bridge that has
// somebody else's pipeline instead of NORMAL (Config.Mark).
//
// Flows with another cookie tag, groups outside of 65,536 IDs and meters outside of three
// are never touched. A flow of the host's own with a higher priority in table 0 comes
// first; workloads and the overlay's TAP must be kept apart from the uplink by VLAN tags,
// because what is not bypassed is forwarded by NORMAL. Fragments have no ports to match on (Open
// vSwitch's default fragment handling): no rule, gate or guard takes them.
//
// # IPv6 extension headers
//
// Open vSwitch looks for TCP and UDP behind extension headers, and has no field to tell that
// there are any. The classifier asks for no bypass of such packets, but where their five-tuple
// is bypassed they are rewritten like others: addresses, ports and checksum right, the headers
// untouched, and rewritten back at the other end, so that they arrive as they were sent
// (TestIntegrationLive). An atomic fragment (RFC 6946) is one of them; while it is rewritten
// its checksum is off by the addresses in user space (3.1), which the other end's switch
// undoes if it is of the same kind.
package ofpath
