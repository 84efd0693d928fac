package ovs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Interface is a row of the database's Interface table.
type Interface struct {
	Name string
	// ExternalIDs are the interface's own, not those of its port.
	ExternalIDs map[string]string
}

// Interfaces lists, by name, the interfaces of all bridges that have these external_ids.
func (c *Client) Interfaces(ctx context.Context, ids map[string]string) ([]Interface, error) {
	args := []string{"--format=json", "--columns=name,external_ids", "find", "interface"}
	for _, key := range slices.Sorted(maps.Keys(ids)) {
		if !keyRE.MatchString(key) {
			return nil, fmt.Errorf("ovs: %q is no key for external_ids", key)
		}
		args = append(args, "external_ids:"+key+"="+quote(ids[key]))
	}
	text, err := c.vsctl(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("ovs: interfaces: %w", err)
	}
	var table struct {
		Data [][]json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		return nil, fmt.Errorf("ovs: interfaces: %w", err)
	}
	list := make([]Interface, 0, len(table.Data))
	for _, row := range table.Data {
		i, err := interfaceOf(row)
		if err != nil {
			return nil, fmt.Errorf("ovs: interfaces: %w", err)
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// interfaceOf reads a row; the database writes a map as ["map",[[key,value],...]] (RFC 7047).
func interfaceOf(row []json.RawMessage) (Interface, error) {
	i := Interface{ExternalIDs: map[string]string{}}
	if len(row) != 2 {
		return i, fmt.Errorf("a row of %d columns", len(row))
	}
	if err := json.Unmarshal(row[0], &i.Name); err != nil {
		return i, err
	}
	var kind string
	var pairs [][2]string
	if err := json.Unmarshal(row[1], &[]any{&kind, &pairs}); err != nil {
		return i, err
	}
	if kind != "map" {
		return i, fmt.Errorf("%s: external_ids are a %q", i.Name, kind)
	}
	for _, p := range pairs {
		i.ExternalIDs[p[0]] = p[1]
	}
	return i, nil
}

// BridgeOf names the bridge that has the port.
func (c *Client) BridgeOf(ctx context.Context, port string) (string, error) {
	if _, err := externalIDs(nil, port); err != nil {
		return "", err
	}
	bridge, err := c.tools(ctx).VSwitch.PortToBridge(port)
	if err != nil {
		return "", fmt.Errorf("ovs: bridge of %s: %w", port, err)
	}
	return strings.TrimSpace(bridge), nil
}
