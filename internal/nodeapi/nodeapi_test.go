package nodeapi

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/viasnet/vias/internal/nodecfg"
)

func TestClient(t *testing.T) {
	want := Status{Network: "blue", Ready: true, Peers: []Peer{{Name: "h2", State: PeerUp, RTTMicros: 90}},
		Flows: []Flow{{Flow: "tcp 10.77.0.1:1 > 10.77.0.2:2", State: FlowBypassed, Local: netip.MustParseAddrPort("10.99.0.1:61440")}}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+StatusPath, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(want) })
	mux.HandleFunc("PUT "+PolicyPath, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		p, err := nodecfg.ParsePolicy(b)
		if err != nil || p.Default != nodecfg.Bypass {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(Error{"not that policy"})
		}
	})
	c := Client{Socket: filepath.Join(t.TempDir(), "s")}
	_, err := c.Status(t.Context())
	require.Error(t, err, "nobody there")

	ln, err := net.Listen("unix", c.Socket)
	require.NoError(t, err)
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: mux}}
	srv.Start()
	defer srv.Close()
	got, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, &want, got)
	require.NoError(t, c.SetPolicy(t.Context(), nodecfg.Policy{Default: nodecfg.Bypass}))
	require.ErrorContains(t, c.SetPolicy(t.Context(), nodecfg.Policy{}), "node policy: not that policy")
}
