// Package ovsdbtest is a database of Open vSwitch in memory, served on a unix socket, for
// tests: it answers monitor and echo, and can go away and come back.
package ovsdbtest

import (
	"encoding/json"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/viasnet/vias/ofctl/ovs/ovsdb"
)

// tables is rows as JSON, by table and UUID.
type tables map[string]map[string]json.RawMessage

// Server serves one content to all who connect.
type Server struct {
	path string

	mu       sync.Mutex // guards what follows, and writing
	listener net.Listener
	conns    map[net.Conn]bool
	now      tables
	mute     bool
	hung     map[net.Conn]bool // say nothing any more

	running sync.WaitGroup
}

// New makes a server for the socket at path; Start starts it.
func New(path string) *Server {
	return &Server{path: path, conns: map[net.Conn]bool{}, hung: map[net.Conn]bool{}}
}

// Address is what ovsdb.Config.Address wants.
func (s *Server) Address() string { return "unix:" + s.path }

// Start listens. The content is kept over Stop.
func (s *Server) Start() error {
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.running.Go(func() { s.serve(c) })
		}
	})
	return nil
}

// Stop ends the server and all connections, as its death does.
func (s *Server) Stop() {
	s.mu.Lock()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Mute makes the server take everything and say nothing.
func (s *Server) Mute(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

// Hang makes the server take everything and say nothing on the connections that there are now. Others
// are served.
func (s *Server) Hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		s.hung[c] = true
	}
}

// Set replaces the content and tells what changed. Interfaces without a UUID get their
// names for one.
func (s *Server) Set(bridges ...ovsdb.Bridge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.now
	s.now = rows(bridges)
	update := map[string]map[string]map[string]json.RawMessage{}
	note := func(table, id, which string, row json.RawMessage) {
		if update[table] == nil {
			update[table] = map[string]map[string]json.RawMessage{}
		}
		if update[table][id] == nil {
			update[table][id] = map[string]json.RawMessage{}
		}
		update[table][id][which] = row
	}
	for table, list := range s.now {
		for id, row := range list {
			if old, ok := was[table][id]; !ok || string(old) != string(row) {
				note(table, id, "new", row)
			}
		}
	}
	for table, list := range was {
		for id, row := range list {
			if _, ok := s.now[table][id]; !ok {
				note(table, id, "old", row)
			}
		}
	}
	for c := range s.conns {
		s.writeLocked(c, map[string]any{"method": "update", "params": []any{nil, update}, "id": nil})
	}
}

func (s *Server) writeLocked(c net.Conn, v any) {
	b, err := json.Marshal(v)
	if err == nil && !s.mute && !s.hung[c] {
		_, _ = c.Write(b) // who went away reads no more
	}
}

func (s *Server) serve(c net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		delete(s.hung, c)
		s.mu.Unlock()
		_ = c.Close()
	}()
	for d := json.NewDecoder(c); ; {
		var m struct {
			Method string
			Params json.RawMessage
			ID     json.RawMessage
		}
		if d.Decode(&m) != nil {
			return
		}
		s.mu.Lock()
		switch m.Method {
		case "monitor":
			all := map[string]map[string]any{}
			for table, list := range s.now {
				all[table] = map[string]any{}
				for id, row := range list {
					all[table][id] = map[string]any{"new": row}
				}
			}
			s.writeLocked(c, map[string]any{"result": all, "error": nil, "id": m.ID})
			s.writeLocked(c, map[string]any{"method": "echo", "params": []any{}, "id": "echo"})
		case "echo":
			s.writeLocked(c, map[string]any{"result": m.Params, "error": nil, "id": m.ID})
		}
		s.mu.Unlock()
	}
}

// rows is bridges as the server's tables.
func rows(bridges []ovsdb.Bridge) tables {
	t := tables{"Bridge": {}, "Port": {}, "Interface": {}}
	put := func(table, id string, row map[string]any) {
		if b, err := json.Marshal(row); err == nil {
			t[table][id] = b
		}
	}
	for _, b := range bridges {
		ports := set[any]()
		for _, p := range b.Ports {
			faces := set[any]()
			for _, i := range p.Interfaces {
				id := i.UUID
				if id == "" {
					id = i.Name
				}
				faces = with(faces, []string{"uuid", id})
				row := map[string]any{"name": i.Name, "type": i.Type, "external_ids": text(i.ExternalIDs), "status": text(i.Status),
					"ofport": set[int64](), "mac_in_use": set[string](), "error": set[string]()}
				if i.Ofport != 0 {
					row["ofport"] = i.Ofport
				}
				if i.MAC != "" {
					row["mac_in_use"] = i.MAC
				}
				put("Interface", id, row)
			}
			row := map[string]any{"name": p.Name, "tag": set[int](), "trunks": set(p.Trunks...), "external_ids": text(p.ExternalIDs), "interfaces": faces}
			if p.Tag != 0 {
				row["tag"] = p.Tag
			}
			put("Port", "port "+p.Name, row)
			ports = with(ports, []string{"uuid", "port " + p.Name})
		}
		put("Bridge", "bridge "+b.Name, map[string]any{"name": b.Name, "datapath_type": b.DatapathType,
			"external_ids": text(b.ExternalIDs), "ports": ports})
	}
	return t
}

// set and text are values of RFC 7047, section 5.1.
func set[T any](list ...T) []any {
	if list == nil {
		list = []T{}
	}
	return []any{"set", list}
}

func with(s []any, v any) []any { return []any{"set", append(slices.Clone(s[1].([]any)), v)} }

func text(m map[string]string) []any {
	list := [][2]string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, [2]string{k, m[k]})
	}
	return []any{"map", list}
}
