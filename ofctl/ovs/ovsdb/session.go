package ovsdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// IDs of our requests.
const (
	monitorID = `"vias-monitor"`
	echoID    = `"vias-echo"`
)

// session is one connection's life. It belongs to one goroutine.
type session struct {
	c     net.Conn
	probe time.Duration
	f     func(*View)

	rows    rows
	begun   bool // the whole content has come
	silent  int  // probes that nothing was heard after
	pending int  // bytes since the last message
}

// errSilent: the server is connected and answers nothing.
var errSilent = errors.New("the server answers no echo")

// Read implements io.Reader for the decoder: it asks for an echo when nothing comes, and
// bounds a message. A decoder gives up after an error, so time-outs end here.
func (s *session) Read(b []byte) (int, error) {
	for {
		if s.pending > maxMessage {
			return 0, fmt.Errorf("a message of more than %d bytes", maxMessage)
		}
		if err := s.c.SetReadDeadline(time.Now().Add(s.probe)); err != nil {
			return 0, err
		}
		n, err := s.c.Read(b)
		s.pending += n
		if n > 0 {
			s.silent = 0
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if s.silent++; s.silent > 1 {
			return 0, errSilent
		}
		if err := s.send(map[string]any{"method": "echo", "params": []any{}, "id": json.RawMessage(echoID)}); err != nil {
			return 0, err
		}
	}
}

func (s *session) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := s.c.SetWriteDeadline(time.Now().Add(s.probe)); err != nil {
		return err
	}
	_, err = s.c.Write(b)
	return err
}

// run asks for the tables and reads until the connection is lost.
func (s *session) run() error {
	err := s.send(map[string]any{"method": "monitor", "id": json.RawMessage(monitorID),
		"params": []any{"Open_vSwitch", nil, monitored()}})
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	for d := json.NewDecoder(s); ; {
		var m message
		if err := d.Decode(&m); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		s.pending = 0
		if err := s.take(&m); err != nil {
			return err
		}
	}
}

// take does what a message asks for. What is not known is passed over.
func (s *session) take(m *message) error {
	switch {
	case m.Method == "echo":
		params, id := m.Params, m.ID
		if params == nil {
			params = json.RawMessage("[]")
		}
		if id == nil {
			id = json.RawMessage("null")
		}
		return s.send(map[string]any{"result": params, "error": nil, "id": id})
	case m.Method == "update" && s.begun:
		var params []json.RawMessage
		if err := json.Unmarshal(m.Params, &params); err != nil || len(params) != 2 {
			return errors.New("update: want two parameters")
		}
		return s.update(params[1])
	case m.Method == "" && string(m.ID) == monitorID:
		if len(m.Error) > 0 && string(m.Error) != "null" {
			return fmt.Errorf("monitor: refused: %.200s", m.Error)
		}
		s.begun = true
		return s.update(m.Result)
	}
	return nil
}

func (s *session) update(b json.RawMessage) error {
	var u tableUpdates
	if err := json.Unmarshal(b, &u); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	s.rows.apply(&u)
	s.f(s.rows.view())
	return nil
}
