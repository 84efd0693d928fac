package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// statusSocket is the listening unix socket; Close removes its path.
type statusSocket struct{ net.Listener }

// listenStatus makes the status socket, which nobody but its owner may open. One
// that a dead process left is replaced; one that answers is an error, and so is
// anything else of that name.
func listenStatus(path string) (*statusSocket, error) {
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("status socket: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("status socket: %w", err)
	case st.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("status socket: %s is there and is no socket", path)
	default:
		if err := removeStale(path); err != nil {
			return nil, fmt.Errorf("status socket: %w", err)
		}
	}
	ln, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("status socket: %w", err)
	}
	return &statusSocket{ln}, nil
}

func removeStale(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("%s is in use: a node runs with this configuration already", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // what else there is says nothing of the process's death
		return err
	}
	return os.Remove(path)
}

// Times and sizes of the status socket.
const (
	requestTime = 10 * time.Second
	maxBody     = 1 << 20 // bytes
)

// serveStatus answers until ctx ends.
func (n *node) serveStatus(ctx context.Context, socket *statusSocket) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+nodeapi.StatusPath, n.getStatus)
	mux.HandleFunc("PUT "+nodeapi.PolicyPath, n.putPolicy)
	mux.HandleFunc("PUT "+nodeapi.EndpointsPath+"{name}", n.putEndpoint)
	mux.HandleFunc("DELETE "+nodeapi.EndpointsPath+"{name}", n.deleteEndpoint)
	server := &http.Server{Handler: mux, ReadTimeout: requestTime, WriteTimeout: requestTime, ErrorLog: nil}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status socket: %w", err)
	}
	return nil
}

func (n *node) getStatus(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, n.snapshot(r.Context()))
}

func (n *node) putPolicy(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	p, err := nodecfg.ParsePolicy(text)
	switch {
	case err != nil:
		refuse(w, http.StatusBadRequest, err)
	case n.cfg.Bridge == "":
		refuse(w, http.StatusConflict, errors.New("this node has no bridge, so no policy can move a flow"))
	default:
		n.setPolicy(p)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (n *node) setPolicy(p nodecfg.Policy) {
	n.mu.Lock()
	defer n.mu.Unlock() // over both: the last to say so here is the last there
	n.policy = p
	n.network.SetPolicy(p.Func())
	n.log.Info("policy replaced", "default", p.Default, "rules", len(p.Rules))
}

func refuse(w http.ResponseWriter, code int, err error) {
	answer(w, code, nodeapi.Error{Error: oneLine(err)})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // who does not listen does not miss it
}
