// Package embedded is a NATS server in the host's own binary, for signalling by package
// natssignal: alone, or a member of a cluster.
//
// Clients prove their PeerID when they connect (natssignal.Proof) and may then use the
// subjects of that ID alone (natssignal.Permissions), if Config.Admit admits them: nobody but the server reads others'
// messages or sends in others' names. It is not trusted for all that; package sealed is
// what keeps messages from it.
package embedded

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/viasnet/vias/overlay"
)

// Config describes a server. It is a blueprint: nothing in it is open.
type Config struct {
	// Listen is the clients' address. Required; port 0 = any, see Server.Addr.
	Listen netip.AddrPort
	// Name of this server, different for every member of a cluster. Default: drawn.
	Name string
	// Cluster, unless nil, makes it a member of one.
	Cluster *Cluster
	// TLS, unless nil, is a must for clients.
	TLS *tls.Config
	// Store is a directory for JetStream. Default: a temporary one, which Close removes;
	// a member of a cluster should have one that stays.
	Store string
	// MaxClients at once. Default 4096.
	MaxClients int
	// Admit says which peers may connect: nil, or why not, for our own eyes; the peer learns
	// nothing of that. credential is what the client showed (natssignal.Config.Credential),
	// which proves nothing if it is not bound to the peer's key; empty = nothing. It is asked again, without,
	// every 2 s for all who are connected, and who is not admitted any more is
	// disconnected. It must not block. overlay.Admission's method is one. Nil = everybody.
	Admit func(peer overlay.PeerID, credential []byte) error
	// Logger; nil = silent.
	Logger *slog.Logger
}

// Cluster is what a server needs to join others. Three members go on when one is lost;
// so do two, but then without presence.
type Cluster struct {
	// Name, the same for all members. Default "vias".
	Name string
	// Listen is the address for other members. Required.
	Listen netip.AddrPort
	// Advertise is the address (HOST:PORT) at which other members find this one, where
	// that is not Listen (address translation, a proxy). Default: Listen.
	Advertise string
	// Routes are addresses (HOST:PORT, of Listen or Advertise) of members, one at least; the own one
	// may be among them. Members that are not named are learnt. Required.
	Routes []string
	// Secret that members show each other. Required: whoever can join the cluster can
	// read all and speak for all.
	Secret string
	// TLS, unless nil, is for routes, in both directions.
	TLS *tls.Config
}

const (
	defaultMaxClients = 4096
	maxPayload        = overlay.MaxSignal + 4096 // with headers, and JetStream's requests
	maxMemory         = 64 << 20                 // bytes, for presence
	maxStore          = 64 << 20
	startTimeout      = 10 * time.Second
	handshakeTimeout  = 5 // seconds
	writeDeadline     = 5 * time.Second
	maxPending        = 4 << 20 // bytes that wait for a client before it is dropped
	routeUser         = "vias"
	// A member that answers none of routePings pings is looked for anew.
	routePing  = 5 * time.Second
	routePings = 2
)

// Server is a running server.
type Server struct {
	*server.Server        // for natssignal.Config.InProcess, and for what else one likes to ask
	config         Config // complete
	temporary      string // directory that Close removes; "" = none
	keeper         *keeper
	close          func()
}

func (c *Config) complete() error {
	if !c.Listen.IsValid() {
		return errors.New("embedded: Config.Listen is missing")
	}
	if c.Name == "" {
		c.Name = rand.Text()
	}
	if c.MaxClients <= 0 {
		c.MaxClients = defaultMaxClients
	}
	if c.Admit == nil {
		c.Admit = func(overlay.PeerID, []byte) error { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Cluster == nil {
		return nil
	}
	cluster := *c.Cluster
	c.Cluster = &cluster
	switch {
	case !cluster.Listen.IsValid():
		return errors.New("embedded: Cluster.Listen is missing")
	case cluster.Secret == "":
		return errors.New("embedded: Cluster.Secret is missing")
	case len(cluster.Routes) == 0:
		return errors.New("embedded: Cluster.Routes is missing")
	}
	for _, r := range cluster.Routes {
		if !isHostPort(r) {
			return fmt.Errorf("embedded: Cluster.Routes: %q is no HOST:PORT", r)
		}
	}
	if cluster.Advertise != "" && !isHostPort(cluster.Advertise) {
		return fmt.Errorf("embedded: Cluster.Advertise: %q is no HOST:PORT", cluster.Advertise)
	}
	if cluster.Name == "" {
		c.Cluster.Name = "vias"
	}
	return nil
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && host != "" && port != ""
}

// Start starts a server; it takes clients when Start returns. A cluster's member does
// not wait for the others.
func Start(ctx context.Context, config Config) (*Server, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	s := &Server{config: config}
	s.close = sync.OnceFunc(s.shutdown)
	store := config.Store
	if store == "" {
		dir, err := os.MkdirTemp("", "vias-nats")
		if err != nil {
			return nil, fmt.Errorf("embedded: store: %w", err)
		}
		store, s.temporary = dir, dir
	}
	if err := s.start(ctx, store); err != nil {
		s.close()
		return nil, fmt.Errorf("embedded: start: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, store string) error {
	// nats-server does not say why it cannot listen, and ends the process if it cannot make
	// its directory: ask both first.
	if err := os.MkdirAll(filepath.Join(store, "jetstream"), 0o700); err != nil {
		return err
	}
	if err := canListen(ctx, s.config.Listen); err != nil {
		return err
	}
	if c := s.config.Cluster; c != nil {
		if err := canListen(ctx, c.Listen); err != nil {
			return err
		}
	}
	s.keeper = newKeeper(&s.config)
	opts := s.options(store)
	var err error
	if s.Server, err = server.NewServer(opts); err != nil {
		return err
	}
	s.SetLoggerV2(&natsLog{Logger: s.config.Logger}, false, false, false)
	s.Server.Start()
	wait := startTimeout
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end))
	}
	if !s.ReadyForConnections(wait) {
		return errors.New("not ready for connections in time")
	}
	return s.keeper.run(s.Server, s.config.Cluster == nil)
}

func canListen(ctx context.Context, at netip.AddrPort) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return ln.Close()
}

func (s *Server) options(store string) *server.Options {
	c := &s.config
	o := &server.Options{
		ServerName: c.Name,
		Host:       c.Listen.Addr().String(), Port: natsPort(c.Listen.Port()),
		NoSigs: true, NoLog: false,
		MaxConn: c.MaxClients, MaxPayload: maxPayload, MaxPending: maxPending,
		WriteDeadline: writeDeadline,
		AuthTimeout:   handshakeTimeout, TLSTimeout: handshakeTimeout,
		JetStream: true, StoreDir: store, JetStreamMaxMemory: maxMemory, JetStreamMaxStore: maxStore,
		DisableJetStreamBanner:     true,
		AlwaysEnableNonce:          true,
		CustomClientAuthentication: s.keeper.door,
	}
	if c.TLS != nil {
		o.TLS, o.TLSConfig = true, c.TLS
	}
	if k := c.Cluster; k != nil {
		o.Cluster = server.ClusterOpts{
			Name: k.Name, Host: k.Listen.Addr().String(), Port: natsPort(k.Listen.Port()),
			Username: routeUser, Password: k.Secret,
			AuthTimeout: handshakeTimeout, TLSConfig: k.TLS, TLSTimeout: handshakeTimeout,
			Advertise:    k.Advertise,
			PingInterval: routePing, MaxPingsOut: routePings,
		}
		for _, r := range k.Routes {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: r, User: url.UserPassword(routeUser, k.Secret)})
		}
	}
	return o
}

// natsPort is a port as nats-server takes it.
func natsPort(p uint16) int {
	if p == 0 {
		return server.RANDOM_PORT
	}
	return int(p)
}

// URL is where clients find the server: nats:// or tls://, and Listen.
func (s *Server) URL() string { return s.ClientURL() }

// Close ends the server and its clients' connections and waits for that. It is
// idempotent.
func (s *Server) Close() error {
	s.close()
	return nil
}

func (s *Server) shutdown() {
	if s.keeper != nil {
		s.keeper.close()
	}
	if s.Server != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
	if s.temporary != "" {
		_ = os.RemoveAll(s.temporary)
	}
}

var _ interface{ InProcessConn() (net.Conn, error) } = (*Server)(nil)

// internalConn is a connection of the server's own.
func internalConn(s *server.Server, password string) (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(s), nats.UserInfo(keeperUser, password),
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort())
}
