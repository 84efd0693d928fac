package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/viasnet/vias/overlay"
)

// idCommand prints the peer ID of an identity file, which it makes if there is none.
func idCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	set := flags("id", stderr)
	path := set.String("identity", "", "the identity `file`")
	if err := parse(set, args, 0); err != nil {
		return err
	}
	if *path == "" {
		return usageError{errors.New("id: -identity FILE is missing")}
	}
	identity, err := overlay.OpenIdentity(*path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, identity.ID())
	return err
}
