package embedded

import "github.com/nats-io/nats.go"

// Keeper is the server's own connection, which may do everything.
func (s *Server) Keeper() *nats.Conn { return s.keeper.conn }
