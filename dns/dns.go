// Package dns answers for the names of a network's endpoints on this node: NAME.NETWORK. is the
// endpoint NAME, wherever it is. It is for workloads, whose resolver is told of it; what is not of the
// network is refused, for another server to answer. The protocol is github.com/miekg/dns's.
//
// Answers are no more than what any member of the network can publish: who gives a name a meaning
// is the directory's order (docs/directory.md).
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Config describes a Server.
type Config struct {
	// Network is the zone, without the last dot. Required.
	Network string
	// Listen is where it answers over UDP and TCP; port 0 = any. Required.
	Listen netip.AddrPort
	// Resolve finds a name's addresses, as vias.Network.Resolve does. An error for which
	// Unknown is true means that there is no such name. Both are required. They may be called by several
	// goroutines.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	Unknown func(error) bool
	// TTL is how long answers may be kept, and are kept here, good or bad, so that an impatient
	// workload does not ask the directory each time. Default 5 s.
	TTL time.Duration
	// Logger; nil = none.
	Logger *slog.Logger
}

const (
	defaultTTL   = 5 * time.Second
	mostAnswers  = 4096 // kept
	mostAtOnce   = 64   // look-ups
	answerTime   = 3 * time.Second
	refreshTimes = 60 // of the SOA, which nobody transfers
)

// Server answers until it is closed.
type Server struct {
	config Config
	zone   string // with both the dot and lower case
	addr   netip.AddrPort
	udp    *dns.Server
	tcp    *dns.Server
	end    context.CancelFunc
	life   context.Context
	wg     sync.WaitGroup
	slots  chan struct{}

	mu   sync.Mutex // guards kept
	kept map[string]answer
}

type answer struct {
	ips   []netip.Addr
	code  int
	until time.Time
}

// Open listens, and answers from then on.
func Open(c Config) (*Server, error) {
	zone := dns.CanonicalName(c.Network)
	switch _, ok := dns.IsDomainName(zone); {
	case c.Network == "" || !ok || zone == ".":
		return nil, fmt.Errorf("dns: %q cannot be a zone", c.Network)
	case c.Resolve == nil || c.Unknown == nil:
		return nil, errors.New("dns: Config.Resolve or Config.Unknown is missing")
	case !c.Listen.IsValid():
		return nil, errors.New("dns: Config.Listen is missing")
	case c.TTL <= 0:
		c.TTL = defaultTTL
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	packets, streams, err := listen(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	s := &Server{config: c, zone: zone, slots: make(chan struct{}, mostAtOnce), kept: map[string]answer{}}
	s.addr = packets.LocalAddr().(*net.UDPAddr).AddrPort()
	s.life, s.end = context.WithCancel(context.Background())
	handler := dns.HandlerFunc(s.serve)
	s.udp = &dns.Server{PacketConn: packets, Handler: handler}
	s.tcp = &dns.Server{Listener: streams, Handler: handler}
	for _, one := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		one.NotifyStartedFunc = func() { close(started) }
		s.wg.Go(func() {
			if err := one.ActivateAndServe(); err != nil && s.life.Err() == nil {
				c.Logger.Error("dns: it answers no more", "err", err)
			}
		})
		<-started
	}
	return s, nil
}

// listen takes the same port for UDP and TCP.
func listen(at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	port := packets.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	streams, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), port)))
	if err != nil {
		return nil, nil, errors.Join(err, packets.Close())
	}
	return packets, streams, nil
}

// Addr is where it answers.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close ends it, and waits for what is under way.
func (s *Server) Close() error {
	s.end()
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	s.wg.Wait()
	return err
}

// serve answers one query.
func (s *Server) serve(w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg).SetReply(query)
	m.Authoritative = true
	size := dns.MinMsgSize
	if o := query.IsEdns0(); o != nil {
		size = int(o.UDPSize())
		m.SetEdns0(o.UDPSize(), false)
	}
	if len(query.Question) != 1 || query.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
	} else {
		s.answer(m, query.Question[0])
	}
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // who does not take it asks again
}

func (s *Server) answer(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	switch {
	case q.Qclass != dns.ClassINET || !dns.IsSubDomain(s.zone, name):
		m.Authoritative, m.Rcode = false, dns.RcodeRefused
		return
	case name == s.zone:
		if q.Qtype == dns.TypeSOA {
			m.Answer = append(m.Answer, s.soa())
			return
		}
		m.Ns = append(m.Ns, s.soa())
		return
	}
	a := s.find(strings.TrimSuffix(name, "."+s.zone))
	m.Rcode = a.code
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: uint32(s.config.TTL.Seconds())}
	}
	for _, ip := range a.ips {
		switch {
		case ip.Is4() && q.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: ip.AsSlice()})
		case ip.Is6() && q.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: ip.AsSlice()})
		}
	}
	if len(m.Answer) == 0 && a.code != dns.RcodeServerFailure {
		m.Ns = append(m.Ns, s.soa()) // RFC 2308: how long there is nothing
	}
}

// soa is the zone's: its TTL is that of what there is not.
func (s *Server) soa() dns.RR {
	ttl := uint32(s.config.TTL.Seconds())
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: s.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  s.zone, Mbox: "nobody." + s.zone, Serial: 1, Refresh: ttl * refreshTimes, Retry: ttl * refreshTimes, Expire: ttl * refreshTimes, Minttl: ttl,
	}
}

// find is what is kept of a name, or found now.
func (s *Server) find(name string) answer {
	now := time.Now()
	s.mu.Lock()
	a, ok := s.kept[name]
	s.mu.Unlock()
	if ok && now.Before(a.until) {
		return a
	}
	ctx, cancel := context.WithTimeout(s.life, answerTime)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return answer{code: dns.RcodeServerFailure}
	}
	a = answer{until: now.Add(s.config.TTL)}
	ips, err := s.config.Resolve(ctx, name)
	switch {
	case err == nil:
		a.ips = ips
	case s.config.Unknown(err):
		a.code = dns.RcodeNameError
	default:
		a.code = dns.RcodeServerFailure
		s.config.Logger.Debug("dns: a name could not be looked up", "name", name, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= mostAnswers {
		clear(s.kept)
	}
	s.kept[name] = a
	return a
}
