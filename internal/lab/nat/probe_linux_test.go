package nat

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/pion/stun/v4"
)

// Probed is what a node sees of what it is behind.
type Probed struct {
	Mapping, Filtering Behaviour
	Translated         bool
	Hairpin            bool
	UDP, TCP, TLS      bool // gets out; TLS is TCP to port 443
}

const (
	probeTries = 5
	probeWait  = 300 * time.Millisecond // for what may not come at all; it takes some microseconds
)

// Probe is an RPC: the tests of RFC 5780, section 4, against the first family's servers.
func (*node) Probe(at [2]netip.Addr, out *Probed) error {
	a, err := newProber(at)
	if err != nil {
		return err
	}
	defer a.Close()
	if out.TCP, err = dials(netip.AddrPortFrom(at[0], turnPort)); err == nil {
		out.TLS, err = dials(netip.AddrPortFrom(at[0], tlsPort))
	}
	if err != nil {
		return err
	}
	mapped, err := a.ask(0, 0)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	out.UDP = true
	if out.Translated, err = a.translated(mapped); err != nil {
		return err
	}
	if out.Mapping, err = a.mapping(mapped); err != nil {
		return err
	}
	if out.Filtering, err = filtering(at); err != nil {
		return err
	}
	out.Hairpin, err = a.hairpin(mapped)
	return err
}

// dials tells whether TCP gets there; silence is a no.
func dials(to netip.AddrPort) (bool, error) {
	c, err := net.DialTimeout("tcp", to.String(), 2*probeWait)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return false, nil
	case err != nil:
		return false, err
	}
	return true, c.Close()
}

// prober is a socket that asks.
type prober struct {
	*net.UDPConn
	at [2]netip.Addr
}

func newProber(at [2]netip.Addr) (*prober, error) {
	c, err := net.ListenUDP("udp", nil)
	return &prober{c, at}, err
}

// request sends one to a server's address and port, of two each.
func (p *prober) request(addr, port int, flags uint32) (*stun.Message, error) {
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest,
		stun.RawAttribute{Type: stun.AttrChangeRequest, Value: binary.BigEndian.AppendUint32(nil, flags)})
	if err != nil {
		return nil, err
	}
	_, err = p.WriteToUDPAddrPort(m.Raw, netip.AddrPortFrom(p.at[addr], uint16(probePort+port)))
	return m, err
}

// ask returns our address as that server sees it.
func (p *prober) ask(addr, port int) (mapped netip.AddrPort, err error) {
	for range probeTries {
		var m *stun.Message
		if m, err = p.request(addr, port, 0); err != nil {
			return mapped, err
		}
		if mapped, err = p.answer(m); err == nil {
			return mapped, nil
		}
	}
	return mapped, err
}

// answer waits for the one to m; others are passed over.
func (p *prober) answer(m *stun.Message) (netip.AddrPort, error) {
	if err := p.SetReadDeadline(time.Now().Add(probeWait)); err != nil {
		return netip.AddrPort{}, err
	}
	b := make([]byte, 1500)
	for {
		n, err := p.Read(b)
		if err != nil {
			return netip.AddrPort{}, err
		}
		r := &stun.Message{Raw: b[:n]}
		var x stun.XORMappedAddress
		if r.Decode() != nil || r.TransactionID != m.TransactionID || x.GetFrom(r) != nil {
			continue
		}
		ip, _ := netip.AddrFromSlice(x.IP)
		return netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)), nil
	}
}

func (p *prober) translated(mapped netip.AddrPort) (bool, error) {
	list, err := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(mapped.Addr().AsSlice()) {
			return false, nil
		}
	}
	return true, err
}

// mapping is section 4.3.
func (p *prober) mapping(first netip.AddrPort) (Behaviour, error) {
	second, err := p.ask(1, 0)
	if err != nil {
		return 0, err
	}
	third, err := p.ask(1, 1)
	switch {
	case err != nil:
		return 0, err
	case first == second && second == third:
		return EndpointIndependent, nil
	case second == third:
		return AddressDependent, nil
	}
	return AddressAndPortDependent, nil
}

// filtering is section 4.4, with a socket that has sent to nobody yet.
func filtering(at [2]netip.Addr) (Behaviour, error) {
	p, err := newProber(at)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	for i, flags := range []uint32{changeAddr | changePort, changePort} {
		if came, err := p.comesIn(flags); came || err != nil {
			return Behaviour(i), err
		}
	}
	return AddressAndPortDependent, nil
}

// comesIn asks for an answer from elsewhere, which nothing but a filter keeps away: what is
// asked next is answered.
func (p *prober) comesIn(flags uint32) (bool, error) {
	for range probeTries {
		m, err := p.request(0, 0, flags)
		if err != nil {
			return false, err
		}
		if _, err := p.answer(m); err == nil {
			return true, nil
		}
		if _, err := p.ask(0, 0); err != nil {
			return false, err
		}
	}
	return false, nil
}

// hairpin asks ourselves at our outer address, from another port.
func (p *prober) hairpin(mapped netip.AddrPort) (bool, error) {
	q, err := newProber(p.at)
	if err != nil {
		return false, err
	}
	defer q.Close()
	if _, err := q.ask(0, 0); err != nil {
		return false, err
	}
	m, err := stun.Build(stun.TransactionID, stun.BindingSuccess, &stun.XORMappedAddress{IP: mapped.Addr().AsSlice(), Port: int(mapped.Port())})
	if err != nil {
		return false, err
	}
	for range probeTries {
		if _, err := q.WriteToUDPAddrPort(m.Raw, mapped); err != nil {
			return false, err
		}
		if _, err := p.answer(m); err == nil {
			return true, nil
		}
	}
	return false, nil
}
