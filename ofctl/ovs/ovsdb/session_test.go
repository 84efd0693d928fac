package ovsdb

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A real server's words (ovsdb-server 3.1), with every form of a value.
const realUpdate = `{"Interface":{"4c":{"new":{"name":"w1","type":"","ofport":3,"mac_in_use":"02:00:00:00:00:01","error":["set",[]],
	"external_ids":["map",[["iface-id","x"],["attached-mac","02:00:00:00:00:02"]]],"status":["map",[["driver_name","veth"]]]}},
	"4d":{"new":{"name":"gone","type":"","ofport":-1,"mac_in_use":["set",[]],"error":"could not open","external_ids":["map",[]],"status":["map",[]]}}},
	"Port":{"5a":{"new":{"name":"w1","tag":7,"trunks":["set",[]],"external_ids":["map",[]],"interfaces":["uuid","4c"]}},
	"5b":{"new":{"name":"bond","tag":["set",[]],"trunks":["set",[0,9]],"external_ids":["map",[]],"interfaces":["set",[["uuid","4d"],["uuid","4c"]]]}}},
	"Bridge":{"6a":{"new":{"name":"br0","datapath_type":"netdev","external_ids":["map",[]],"ports":["set",[["uuid","5b"],["uuid","5a"],["uuid","none"]]]}}}}`

func TestForms(t *testing.T) {
	var got *View
	s := session{f: func(v *View) { got = v }}
	require.NoError(t, s.update([]byte(realUpdate)))
	w1 := Interface{UUID: "4c", Name: "w1", Ofport: 3, MAC: "02:00:00:00:00:01", Status: map[string]string{"driver_name": "veth"},
		ExternalIDs: map[string]string{"iface-id": "x", "attached-mac": "02:00:00:00:00:02"}}
	gone := Interface{UUID: "4d", Name: "gone", Ofport: -1, Error: "could not open", ExternalIDs: map[string]string{}, Status: map[string]string{}}
	none := map[string]string{}
	require.Equal(t, &View{Bridges: []Bridge{{Name: "br0", DatapathType: "netdev", ExternalIDs: none, Ports: []Port{
		{Name: "bond", Trunks: []uint16{0, 9}, ExternalIDs: none, Interfaces: []Interface{gone, w1}},
		{Name: "w1", Tag: 7, ExternalIDs: none, Interfaces: []Interface{w1}},
	}}}}, got)
	for _, bad := range []string{`[]`, `{"Port":{"a":{"new":{"tag":"x"}}}}`, `{"Port":{"a":{"new":{"external_ids":["set",[]]}}}}`, `{"Port":{"a":{"new":{"interfaces":["uuid"]}}}}`} {
		require.Error(t, s.update([]byte(bad)), bad)
	}
}

// FuzzSession: whatever a server says ends in an error, never in a panic.
func FuzzSession(f *testing.F) {
	f.Add([]byte(`{"id":"vias-monitor","result":` + realUpdate + `,"error":null}{"method":"update","params":[null,` + realUpdate + `]}`))
	f.Add([]byte(`{"method":"echo","params":[],"id":7}{"id":"vias-monitor","error":"no"}`))
	f.Add([]byte(`{"method":"update","params":[1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = theirs.Write(b)
			_ = theirs.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		s := session{c: ours, probe: time.Second, f: func(v *View) { require.NotNil(t, v) }}
		require.Error(t, s.run())
		_ = ours.Close()
		<-done
	})
}
