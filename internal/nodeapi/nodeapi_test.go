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
	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/tap"
)

func TestOffloads(t *testing.T) {
	has, missing := Offloads(tap.Caps{Offload: true}, overlay.Socket{Coalescing: true})
	require.Equal(t, []string{"tap-tcp", "udp-gro"}, has)
	require.Equal(t, []string{"tap-udp", "udp-segment"}, missing)
	has, missing = Offloads(tap.Caps{Offload: true, USO: true}, overlay.Socket{Segmenting: true, Coalescing: true})
	require.Len(t, has, 4)
	require.Empty(t, missing)
}

func TestClient(t *testing.T) {
	want := Status{Network: "blue", Ready: true, Peers: []Peer{{Name: "h2", State: PeerUp, RTTMicros: 90,
		Link: &Link{Kind: "host", Epoch: 2, Drops: Drops(overlay.Drops{Forged: 3, Full: 1})}}},
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
	require.Equal(t, map[string]uint64{"forged": 3, "full": 1}, got.Peers[0].Link.Drops)
	require.NoError(t, c.SetPolicy(t.Context(), nodecfg.Policy{Default: nodecfg.Bypass}))
	err = c.SetPolicy(t.Context(), nodecfg.Policy{})
	require.ErrorContains(t, err, "node policy: not that policy")
	var refusal *Refusal
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusBadRequest, refusal.Code)
	require.ErrorAs(t, c.Detach(t.Context(), "c1"), &refusal, "no such path here")
	require.Equal(t, &Refusal{Code: http.StatusNotFound, Text: "404 Not Found"}, refusal)
}
