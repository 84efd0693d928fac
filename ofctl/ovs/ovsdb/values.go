package ovsdb

import (
	"encoding/json"
	"fmt"
)

// The monitored columns of each table.
type (
	bridgeRow struct {
		Name         string  `json:"name"`
		DatapathType string  `json:"datapath_type"`
		ExternalIDs  textMap `json:"external_ids"`
		Ports        uuids   `json:"ports"`
	}
	portRow struct {
		Name        string  `json:"name"`
		Tag         numbers `json:"tag"`
		Trunks      numbers `json:"trunks"`
		ExternalIDs textMap `json:"external_ids"`
		Interfaces  uuids   `json:"interfaces"`
	}
	interfaceRow struct {
		Name        string  `json:"name"`
		Type        string  `json:"type"`
		Ofport      numbers `json:"ofport"`
		MAC         texts   `json:"mac_in_use"`
		Error       texts   `json:"error"`
		ExternalIDs textMap `json:"external_ids"`
		Status      textMap `json:"status"`
	}
)

// Values of RFC 7047, section 5.1: a set of one may be the value itself.
type (
	numbers []int64
	texts   []string
	uuids   []string
	textMap map[string]string
)

// set is the elements of a set, or of a single value.
func set(b []byte) ([]json.RawMessage, error) {
	kind, body, err := pair(b)
	if err != nil || kind != "set" {
		return []json.RawMessage{b}, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("set: %w", err)
	}
	return list, nil
}

// pair is a two-element array that begins with a string, as all of OVSDB's composite
// values are.
func pair(b []byte) (kind string, body json.RawMessage, err error) {
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return "", nil, err
	}
	if len(list) != 2 {
		return "", nil, fmt.Errorf("array of %d elements, want 2", len(list))
	}
	err = json.Unmarshal(list[0], &kind)
	return kind, list[1], err
}

// atoms decodes a set whose elements are plain JSON values.
func atoms[T any](b []byte) ([]T, error) {
	list, err := set(b)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(list))
	for i, e := range list {
		if err := json.Unmarshal(e, &out[i]); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return out, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *numbers) UnmarshalJSON(b []byte) (err error) {
	*n, err = atoms[int64](b)
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(b []byte) (err error) {
	*t, err = atoms[string](b)
	return err
}

// UnmarshalJSON implements json.Unmarshaler.
func (u *uuids) UnmarshalJSON(b []byte) error {
	list, err := set(b)
	if err != nil {
		return err
	}
	*u = nil
	for i, e := range list {
		kind, body, err := pair(e)
		if err != nil || kind != "uuid" {
			return fmt.Errorf("element %d is no uuid", i)
		}
		var id string
		if err := json.Unmarshal(body, &id); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		*u = append(*u, id)
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *textMap) UnmarshalJSON(b []byte) error {
	kind, body, err := pair(b)
	if err != nil || kind != "map" {
		return fmt.Errorf("no map")
	}
	var list [][2]string
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	*m = make(textMap, len(list))
	for _, e := range list {
		(*m)[e[0]] = e[1]
	}
	return nil
}

// tableUpdates is a <table-updates> of RFC 7047, section 4.1.6.
type tableUpdates struct {
	Bridge    map[string]rowUpdate[bridgeRow]
	Port      map[string]rowUpdate[portRow]
	Interface map[string]rowUpdate[interfaceRow]
}

// rowUpdate: New has all monitored columns, or is absent when the row is gone.
type rowUpdate[T any] struct {
	New *T `json:"new"`
}

// apply takes the changes over; the rows that it replaces stay as they are.
func (r *rows) apply(u *tableUpdates) {
	applyTable(&r.bridges, u.Bridge)
	applyTable(&r.ports, u.Port)
	applyTable(&r.interfaces, u.Interface)
}

func applyTable[T any](have *map[string]*T, u map[string]rowUpdate[T]) {
	if *have == nil {
		*have = map[string]*T{}
	}
	for id, change := range u {
		if change.New == nil {
			delete(*have, id)
		} else {
			(*have)[id] = change.New
		}
	}
}
