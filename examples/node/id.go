package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/membership"
)

// idCommand prints the peer ID of an identity file, which it makes if there is none, or a
// request to become a member.
func idCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	set := flags("id", stderr)
	path := set.String("identity", "", "the identity `file`")
	request := set.Bool("request", false, "print a request for an authority instead: it is no secret")
	if err := parse(set, args, 0); err != nil {
		return err
	}
	if *path == "" {
		return usageError{errors.New("id: -identity FILE is missing")}
	}
	identity, err := openIdentity(*path)
	if err != nil {
		return err
	}
	if !*request {
		_, err = fmt.Fprintln(stdout, identity.ID())
		return err
	}
	text, err := membership.Request(identity)
	if err != nil {
		return err
	}
	if _, err := stdout.Write(text); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stderr, "next: take this to the authority: node ca issue FILE (this node is %s)\n", identity.ID())
	return err
}

// openIdentity reads an identity, and makes it and its folder if there is none.
func openIdentity(path string) (*overlay.Identity, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return overlay.OpenIdentity(path)
}
