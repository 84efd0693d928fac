package nat

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/viasnet/vias/overlay/tcpsignal"
)

const (
	secret     = "shared by servers and nodes"
	turnPort   = 3478
	tlsPort    = 443 // at the first address; at the second it is signalling's
	probePort  = 3500
	firstRelay = 20000 // of the addresses that UDP's clients get; TCP's follow, and TLS's
	relayPorts = 10000
)

// servers are those on the Internet: STUN, TURN, signalling, and RFC 5780's, in a process of
// their own.
type servers struct {
	process *remote
	ca, key []byte // DER
}

// ServerArgs is what they are started with.
type ServerArgs struct{ Certificate, Key []byte }

func startServers(w *world) *servers {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(w.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{servers4[0].AsSlice(), servers6[0].AsSlice(), coturnStatic.AsSlice(), coturnTimed.AsSlice()},
	}
	ca, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(w.t, err)
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(w.t, err)
	s := &servers{process: w.spawn("net"), ca: ca, key: der}
	require.NoError(w.t, s.process.Call("servers.Start", ServerArgs{ca, der}, &Nothing{}))
	return s
}

// Nothing is an RPC's empty argument or result.
type Nothing struct{ X bool }

// serving is the process of the servers.
type serving struct{}

// Start is an RPC. The servers run until the process ends.
func (*serving) Start(a ServerArgs, _ *Nothing) error {
	key, err := x509.ParseECPrivateKey(a.Key)
	if err != nil {
		return err
	}
	var signal joined
	for _, pair := range [][2]netip.Addr{servers4, servers6} {
		if err := serveTURN(pair[0], tls.Certificate{Certificate: [][]byte{a.Certificate}, PrivateKey: key}); err != nil {
			return err
		}
		if err := serveProbes(pair); err != nil {
			return err
		}
		ln, err := net.Listen("tcp", netip.AddrPortFrom(pair[1], tlsPort).String())
		if err != nil {
			return err
		}
		signal.add(ln)
	}
	go func() { _ = tcpsignal.Serve(context.Background(), &signal, tcpsignal.ServerConfig{}) }()
	return nil
}

// joined is one listener of several.
type joined struct {
	net.Listener // the last
	accepted     chan net.Conn
}

func (j *joined) add(ln net.Listener) {
	if j.Listener = ln; j.accepted == nil {
		j.accepted = make(chan net.Conn)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			j.accepted <- c
		}
	}()
}

// Accept returns the next of any of them.
func (j *joined) Accept() (net.Conn, error) { return <-j.accepted, nil }

// serveTURN serves STUN and TURN over UDP, TCP and TLS at an address.
func serveTURN(at netip.Addr, certificate tls.Certificate) error {
	udp, err := net.ListenPacket("udp", netip.AddrPortFrom(at, turnPort).String())
	if err != nil {
		return err
	}
	if err := makeRoom(udp.(*net.UDPConn)); err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", netip.AddrPortFrom(at, turnPort).String())
	if err != nil {
		return err
	}
	over, err := tls.Listen("tcp", netip.AddrPortFrom(at, tlsPort).String(),
		&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	relays := func(transport int) turn.RelayAddressGenerator {
		first := firstRelay + transport*relayPorts
		if at.Is6() { // whoever comes by IPv6 gets IPv4 addresses as well, of other ports
			first += relayPorts / 2
		}
		return roomy{&turn.RelayAddressGeneratorPortRange{
			RelayAddress: servers4[0].AsSlice(), Address: servers4[0].String(),
			MinPort: uint16(first), MaxPort: uint16(first + relayPorts/2 - 1), MaxRetries: 100,
		}}
	}
	_, err = turn.NewServer(turn.ServerConfig{
		Realm: "vias", StrictAddressFamily: true, // as RFC 8656, section 7.2: whoever asks for no family gets IPv4
		LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard}, AuthHandler: turn.LongTermTURNRESTAuthHandler(secret, nil),
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: udp, RelayAddressGenerator: relays(0)}},
		ListenerConfigs: []turn.ListenerConfig{
			{Listener: tcp, RelayAddressGenerator: relays(1)}, {Listener: over, RelayAddressGenerator: relays(2)},
		},
	})
	return err
}

// roomy gives an allocation's socket room for a second of a stream: on a busy machine all three
// kinds' servers, one process, may have to wait for so long, and what they lose no link can have
// again.
type roomy struct{ turn.RelayAddressGenerator }

func (g roomy) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	conn, at, err := g.RelayAddressGenerator.AllocatePacketConn(c)
	if udp, ok := conn.(syscall.Conn); err == nil && ok {
		err = makeRoom(udp)
	}
	return conn, at, err
}

func makeRoom(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	return errors.Join(err, inner)
}

// Drops is an RPC: what the kernel lost of UDP.
func (*serving) Drops(_ Nothing, out *string) (err error) {
	*out, err = kernelDrops()
	return err
}

// kernelDrops is what the kernel counts of UDP in this process's namespace.
func kernelDrops() (out string, err error) {
	b, err := os.ReadFile("/proc/self/net/snmp")
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Udp:") {
			out += line
		}
	}
	return out, err
}

// transportOf is what the client of a relay at that address talks to it over.
func transportOf(relay netip.AddrPort) string {
	i := (int(relay.Port()) - firstRelay) / relayPorts
	if relay.Addr() != servers4[0] || i < 0 || i > 2 {
		return ""
	}
	return []string{"UDP", "TCP", "TLS"}[i]
}

// The flags of CHANGE-REQUEST (RFC 5780, section 7.2).
const (
	changePort = 2
	changeAddr = 4
)

// serveProbes answers Binding requests at two ports of two addresses, from where
// CHANGE-REQUEST says.
func serveProbes(at [2]netip.Addr) error {
	var sockets [2][2]*net.UDPConn
	for a := range sockets {
		for p := range sockets[a] {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at[a], uint16(probePort+p))))
			if err != nil {
				return err
			}
			sockets[a][p] = c
		}
	}
	for a := range sockets {
		for p := range sockets[a] {
			go answer(sockets, a, p)
		}
	}
	return nil
}

func answer(sockets [2][2]*net.UDPConn, a, p int) {
	b := make([]byte, 1500)
	for {
		n, from, err := sockets[a][p].ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		m := &stun.Message{Raw: b[:n]}
		if m.Decode() != nil {
			continue
		}
		var flags uint32
		if v, err := m.Get(stun.AttrChangeRequest); err == nil && len(v) == 4 {
			flags = binary.BigEndian.Uint32(v)
		}
		reply, err := stun.Build(m, stun.BindingSuccess, &stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())})
		if err != nil {
			continue
		}
		_, _ = sockets[a^int(flags&changeAddr/changeAddr)][p^int(flags&changePort/changePort)].WriteToUDPAddrPort(reply.Raw, from)
	}
}
