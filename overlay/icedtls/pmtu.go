package icedtls

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/icedtls/internal/pmtu"
	"github.com/viasnet/vias/overlay/icedtls/internal/record"
)

// pathMTU finds how long a Link's datagrams may be (package pmtu). Probes and reports are texts
// like others, so they need the Link's keys: nobody else can ask for an answer, or give one.
// Each end probes the direction that it sends in; the size is the route's, so that a new path
// begins with what works everywhere, and is in use as soon as it is known.
type pathMTU struct {
	link    *link
	sent    atomic.Int64 // longest record since the last look
	opened  atomic.Int64 // longest record of the peer's since our last report
	falls   atomic.Uint64
	answers *bucket // to the peer's probes

	mu      sync.Mutex    // guards reports
	reports []pmtu.Report // for the watch

	// The watch's.
	route  *route
	search *pmtu.Search
	fallen uint64 // of searches that are over
}

const (
	// A probe's text that a Link can send in either kind of record, and what it is not.
	probeHeader = 1 + pmtu.ProbeLen
	reportLen   = 1 + pmtu.ReportLen
	// How long a probe may stay unanswered, at least and at most, and where there is no
	// round-trip time to go by.
	patienceLeast = 100 * time.Millisecond
	patienceMost  = time.Second
	patienceFirst = 250 * time.Millisecond
	// channelOverhead is what TURN adds to what is sent through a channel (RFC 8656,
	// section 12.4).
	channelOverhead = 4
	reportQueue     = 64
)

func (p *pathMTU) init(l *link) {
	p.link, p.answers = l, newBucket(100, 100)
}

// note keeps the longest.
func note(longest *atomic.Int64, n int) {
	if int64(n) > longest.Load() { // two at once may lose one: the next batch has others
		longest.Store(int64(n))
	}
}

// mtu is how long the core's datagrams may be now.
func (r *route) mtu() int { return int(r.size.Load()) - recordOverhead }

// limit sets how long the path's UDP datagrams may be at most and in any case.
func (r *route) limit(c *Config) {
	header := headerIPv6
	if r.Remote.Addr().Is4() {
		header = headerIPv4
	}
	r.most, r.least = c.UnderlayMTU-header, minUnderlayMTU-header
	r.header = header
	if r.Kind == overlay.PathRelay {
		r.least -= relayOverhead
		r.most, r.header = r.most-channelOverhead, header+channelOverhead
	}
	r.MTU = r.most - recordOverhead
	r.size.Store(int64(r.least))
}

// resume takes over what the same path was found to take before.
func (r *route) resume(old *route) {
	if old != nil && old.Path == r.Path && old.relay == r.relay {
		r.size.Store(old.size.Load())
		r.again = true
	}
}

// hint is what the kernel believes of a path, and TURN of itself.
func (r *route) hint() int {
	switch {
	case r.relay != nil:
		return r.most + channelOverhead - relayOverhead // until there is a channel
	default:
		return kernelMTU(r.Local.Addr(), r.Remote) - r.header
	}
}

// tick is called by the watch, often.
func (p *pathMTU) tick(now time.Time) {
	if r := p.link.session.path.Load(); r != p.route {
		p.begin(r)
	}
	p.mu.Lock()
	reports := p.reports
	p.reports = nil
	p.mu.Unlock()
	for _, x := range reports {
		p.search.Report(x)
	}
	p.settle()
	for _, x := range p.search.Step(now, int(p.sent.Swap(0)), p.patience()) {
		if err := p.probe(x); errors.Is(err, syscall.EMSGSIZE) {
			p.search.Refused(x.Size)
		}
	}
	p.settle()
}

// begin looks at another path. One that is as before keeps its size, and is asked for more.
func (p *pathMTU) begin(r *route) {
	if p.search != nil && r.again && p.route.Path == r.Path {
		p.route = r
		p.search.Again()
		return
	}
	var first uint32
	if p.search != nil {
		p.fallen += p.search.Falls()
		first = p.search.Next()
	}
	p.route = r
	r.size.Store(int64(r.least))
	p.search = pmtu.New(pmtu.Config{
		Base: r.least, Max: r.most, Header: r.header, Hint: r.hint, First: first,
		Raise: p.link.session.transport.config.MTURaise,
	})
}

// settle makes what the search found what is used.
func (p *pathMTU) settle() {
	size, falls := p.search.Size(), p.fallen+p.search.Falls()
	if old := p.route.size.Swap(int64(size)); old != int64(size) {
		p.link.session.transport.log.Debug("icedtls: path MTU", "peer", p.link.Peer().Short(),
			"mtu", size-recordOverhead, "was", old-recordOverhead)
	}
	p.falls.Store(falls)
}

// patience is how long an answer may take.
func (p *pathMTU) patience() time.Duration {
	rtt := time.Duration(p.link.rtt.Load())
	if rtt == 0 {
		return patienceFirst
	}
	return min(max(2*rtt, patienceLeast), patienceMost)
}

// probe sends one, in the kind of record that frames go in. The error is EMSGSIZE, or does not
// matter.
func (p *pathMTU) probe(x pmtu.Probe) error {
	l := p.link
	text := func(overhead int) []byte {
		b := make([]byte, max(x.Size-overhead, probeHeader))
		b[0] = recordProbe
		pmtu.PutProbe(b[1:], x.Number)
		return b
	}
	if sealed, err := l.data.probe(text(record.Overhead), p.route); sealed {
		return err
	}
	_, err := l.conn.Write(text(recordOverhead - 1))
	return err
}

// probe sends text as a data record; false: there are no keys for it.
func (d *data) probe(text []byte, to *route) (sealed bool, err error) {
	k := d.use.Load()
	if k == nil {
		return false, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	mem := make([]byte, record.HeaderLen+len(text)+record.TagLen)
	copy(mem[record.HeaderLen:], text)
	r, err := k.sealer.Seal(mem, record.HeaderLen, len(text))
	if err != nil {
		return false, nil
	}
	d.link.out.add(1, len(r))
	return true, to.probe(d.link.session.transport.socket, r)
}

// probe sends what the kernel may refuse.
func (r *route) probe(s *socket, b []byte) error {
	switch {
	case r.relay != nil:
		r.relay.send(b, r.to)
		return nil
	case s.drop != nil && s.drop(b, r.Remote):
		return nil
	}
	_, err := s.udp.WriteToUDPAddrPort(b, r.Remote)
	return err
}

// probed answers the peer's probe.
func (p *pathMTU) probed(text []byte) {
	number, ok := pmtu.ParseProbe(text[1:])
	if !ok || !p.answers.take() {
		return
	}
	longest := int(p.opened.Swap(0))
	p.link.write(pmtu.Report{Number: number, Longest: longest}.Append(append(make([]byte, 0, reportLen), recordReport)))
}

// reported takes the peer's answer, for the watch.
func (p *pathMTU) reported(text []byte) {
	r, ok := pmtu.ParseReport(text[1:])
	if !ok {
		return
	}
	p.mu.Lock()
	if len(p.reports) < reportQueue {
		p.reports = append(p.reports, r)
	}
	p.mu.Unlock()
	p.link.wakeWatch()
}

// wholeOnly has conn's datagrams never cut on their way, so that what does not fit is lost and
// noticed. Where a system cannot be told, they may be cut, and get there all the same.
func wholeOnly(conn *net.UDPConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(dontFragment)
	}
}
