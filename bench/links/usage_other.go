//go:build !linux

package main

import (
	"errors"
	"time"
)

func processorTime() time.Duration { return 0 }

func residentSet() (int, error) { return 0, errors.New("measured on Linux only") }
