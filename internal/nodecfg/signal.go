package nodecfg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// Signal is how nodes find each other. Without it, this node serves NATS at DefaultServe. It is
// one address of a rendezvous, or all that there is to say:
//
//	"nats://10.99.0.1:4222"                              a NATS server, or tls://
//	"tcp://10.99.0.1:7401"                               a rendezvous of package tcpsignal
//	"serve://10.99.0.1:4222"                             a NATS server in this node, which uses it
//	{"tcp": "10.99.0.1:7401"}                            a rendezvous of package tcpsignal
//	{"tcp": "10.99.0.1:7401", "serve": "10.99.0.1:7401"} …which this node serves
//	{"nats": {"urls": ["nats://10.99.0.1:4222"]}}        a NATS server or cluster
//	{"serve": "10.99.0.1:4222"}                          …in this node, which uses it
//
// Whatever it is, messages are sealed from node to node (package sealed).
type Signal struct {
	// TCP is the rendezvous' address.
	TCP netip.AddrPort `json:"tcp,omitzero"`
	// NATS says how to reach servers that are not in this node.
	NATS *NATS `json:"nats,omitempty"`
	// Serve makes this node serve there: with TCP that rendezvous, else NATS.
	Serve netip.AddrPort `json:"serve,omitzero"`
	// Cluster makes the NATS server of this node a member of one.
	Cluster *Cluster `json:"cluster,omitempty"`
	// Anybody may use the NATS server of this node; without it those may who may link to it.
	// It is for a rendezvous of several networks.
	Anybody bool `json:"anybody,omitempty"`
	// Store is a directory for the NATS server of this node; "" = a temporary one.
	Store string `json:"store,omitempty"`
	// TLS is for NATS: what clients trust, or what this node shows where it serves.
	TLS *TLS `json:"tls,omitempty"`
}

// NATS is a client's access to servers. At most one of Credentials and NKey is given;
// with neither the node proves its peer ID.
type NATS struct {
	// URLs are nats://HOST:PORT or tls://HOST:PORT.
	URLs []string `json:"urls"`
	// Credentials is the path of a .creds file.
	Credentials string `json:"creds,omitempty"`
	// NKey is the path of an nkey seed.
	NKey string `json:"nkey,omitempty"`
}

// Cluster is what a server needs to join others.
type Cluster struct {
	// Listen is the address for the other members.
	Listen netip.AddrPort `json:"listen"`
	// Routes are HOST:PORT of members; the own one may be among them.
	Routes []string `json:"routes"`
	// Secret is the path of a file whose contents all members share.
	Secret string `json:"secret"`
}

// TLS are paths of PEM files.
type TLS struct {
	// CA holds the authorities; "" = the system's.
	CA string `json:"ca,omitempty"`
	// Cert and Key are our certificate and its key; servers need them.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
}

// DefaultServe is where a node serves that is told of no rendezvous: it is one.
var DefaultServe = netip.AddrPortFrom(netip.IPv4Unspecified(), 4222)

// UnmarshalJSON reads an object, or one address.
func (s *Signal) UnmarshalJSON(text []byte) error {
	var address string
	if json.Unmarshal(text, &address) == nil {
		return s.parse(address)
	}
	type fields Signal // without this method
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode((*fields)(s))
}

// parse reads one address.
func (s *Signal) parse(address string) error {
	scheme, at, _ := strings.Cut(address, "://")
	switch scheme {
	case "nats", "tls":
		*s = Signal{NATS: &NATS{URLs: []string{address}}}
		return nil
	case "tcp", "serve":
		a, err := netip.ParseAddrPort(at)
		if err != nil {
			return fmt.Errorf("%q has no ADDRESS:PORT", address)
		}
		if scheme == "tcp" {
			*s = Signal{TCP: a}
		} else {
			*s = Signal{Serve: a}
		}
		return nil
	}
	return fmt.Errorf("%q is none of nats://HOST:PORT, tls://HOST:PORT, tcp://ADDRESS:PORT, serve://ADDRESS:PORT", address)
}

// none tells whether nothing at all is said.
func (s *Signal) none() bool { return !s.TCP.IsValid() && s.NATS == nil && !s.Serve.IsValid() }

// Embedded tells whether the node has a NATS server in it.
func (s *Signal) Embedded() bool { return s.Serve.IsValid() && !s.TCP.IsValid() }

func (s *Signal) check() error {
	switch {
	case s.TCP.IsValid() && s.TCP.Port() == 0:
		return errors.New("signal.tcp: no port given")
	case s.Serve.IsValid() && s.Serve.Port() == 0:
		return errors.New("signal.serve: no port given")
	case s.TCP.IsValid() && s.NATS != nil:
		return errors.New("signal: tcp and nats are both given; want one")
	case s.Embedded() && s.NATS != nil:
		return errors.New("signal: serve and nats are both given; a node that serves NATS uses its own server")
	case s.none():
		return errors.New("signal: none given; want nats (URLs of a server), serve (ADDRESS:PORT, to have the server in this node) or tcp (signal.tcp, ADDRESS:PORT of a rendezvous)")
	case !s.Embedded() && s.Anybody:
		return errors.New("signal.anybody: this node serves no NATS (signal.serve, without signal.tcp)")
	case !s.Embedded() && s.Cluster != nil:
		return errors.New("signal.cluster: this node serves no NATS (signal.serve, without signal.tcp)")
	case !s.Embedded() && s.Store != "":
		return errors.New("signal.store: this node serves no NATS (signal.serve, without signal.tcp)")
	case s.TCP.IsValid() && s.TLS != nil:
		return errors.New("signal.tls: not with signal.tcp, which has none; messages are sealed all the same")
	}
	for _, check := range []func() error{s.checkNATS, s.checkCluster, s.checkTLS} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Signal) checkNATS() error {
	if s.NATS == nil {
		return nil
	}
	if len(s.NATS.URLs) == 0 {
		return errors.New("signal.nats.urls: none given")
	}
	for _, text := range s.NATS.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || u.Port() == "" || u.Path != "" {
			return fmt.Errorf("signal.nats.urls: %q is neither nats://HOST:PORT nor tls://HOST:PORT", text)
		}
	}
	if s.NATS.Credentials != "" && s.NATS.NKey != "" {
		return errors.New("signal.nats: creds and nkey are both given; want one")
	}
	return nil
}

func (s *Signal) checkCluster() error {
	c := s.Cluster
	switch {
	case c == nil:
		return nil
	case !c.Listen.IsValid() || c.Listen.Port() == 0:
		return errors.New("signal.cluster.listen: no ADDRESS:PORT given")
	case c.Listen == s.Serve:
		return errors.New("signal.cluster.listen: is signal.serve; want another port")
	case len(c.Routes) == 0:
		return errors.New("signal.cluster.routes: no member's HOST:PORT given")
	case c.Secret == "":
		return errors.New("signal.cluster.secret: no path given")
	}
	for _, r := range c.Routes {
		if host, port, err := net.SplitHostPort(r); err != nil || host == "" || port == "" {
			return fmt.Errorf("signal.cluster.routes: %q is no HOST:PORT", r)
		}
	}
	return nil
}

func (s *Signal) checkTLS() error {
	switch t := s.TLS; {
	case t == nil:
		return nil
	case (t.Cert == "") != (t.Key == ""):
		return errors.New("signal.tls: cert and key go together")
	case s.Embedded() && t.Cert == "":
		return errors.New("signal.tls: a server needs cert and key")
	}
	return nil
}
