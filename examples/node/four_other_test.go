//go:build !linux

package main

import "errors"

// privateRun needs a mount namespace; the tests that ask for it run on Linux only.
func privateRun() error { return errors.ErrUnsupported }
