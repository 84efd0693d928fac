package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"time"

	"github.com/viasnet/vias/internal/nodeapi"
	"github.com/viasnet/vias/internal/nodecfg"
)

// clientTime bounds a request to a node.
const clientTime = 10 * time.Second

// nodeFlags adds -config and -socket, which name a running node.
func nodeFlags(set *flag.FlagSet) (client func() (nodeapi.Client, error)) {
	config := configFlag(set)
	socket := set.String("socket", "", "the node's status `socket`, instead of -config")
	return func() (nodeapi.Client, error) {
		if *socket != "" {
			return nodeapi.Client{Socket: *socket}, nil
		}
		cfg, err := load(*config)
		if err != nil {
			return nodeapi.Client{}, err
		}
		return nodeapi.Client{Socket: cfg.Status}, nil
	}
}

// policyCommand replaces the policy of a running node.
func policyCommand(ctx context.Context, args []string, _, stderr io.Writer) error {
	set := flags("policy", stderr)
	client := nodeFlags(set)
	if err := parse(set, args, 1); err != nil {
		return err
	}
	if set.NArg() == 0 {
		return usageError{errors.New("policy: say bypass, overlay, or a policy as JSON")}
	}
	p, err := parsePolicy(set.Arg(0))
	if err != nil {
		return usageError{err}
	}
	c, err := client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	return c.SetPolicy(ctx, p)
}

// parsePolicy reads a policy as the command line has it: a word for all flows, or
// JSON as in the configuration.
func parsePolicy(arg string) (nodecfg.Policy, error) {
	if arg == nodecfg.Bypass || arg == nodecfg.Overlay {
		return nodecfg.Policy{Default: arg}, nil
	}
	return nodecfg.ParsePolicy([]byte(arg))
}
