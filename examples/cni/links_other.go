//go:build !linux

package main

import "errors"

// realLinks are the kernel's, which has to be Linux.
type realLinks struct{}

func (realLinks) check(string, string) error                { return errors.ErrUnsupported }
func (realLinks) plug(pair) error                           { return errors.ErrUnsupported }
func (realLinks) configure(pair, []ipConfig, []route) error { return errors.ErrUnsupported }
func (realLinks) unplug(string) error                       { return errors.ErrUnsupported }
func (realLinks) look(pair, []ipConfig, []route) error      { return errors.ErrUnsupported }
func (realLinks) hostEnds(string) ([]string, error)         { return nil, errors.ErrUnsupported }
