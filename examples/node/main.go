// Command node is a complete vias node as a program: an overlay to its peers, and,
// where it has an Open vSwitch bridge, the bypass.
//
//	node -config node.json            run until SIGTERM or SIGINT
//	node check -config node.json      is all there that it needs?
//	node status -config node.json     peers, paths, flows and why they are where they are
//	node policy -config node.json X   replace the policy: bypass, overlay or JSON
//	node attach -config node.json X   add or replace the endpoint X (JSON), until the end
//	node detach -config node.json X   take the endpoint of that name off the network
//	node id -identity FILE            print the peer ID, making the identity if need be
//	node ca init|issue|revoke|...     say who is a member of the network: see node ca -h
//
// A node.json of four lines joins a network; all else has a default:
//
//	{
//	  "identity": "/var/lib/vias/identity.pem",
//	  "network": "blue",
//	  "signal": "nats://10.99.0.1:4222",
//	  "membership": "/var/lib/vias/blue"
//	}
//
// The identity is made at the first start. "signal" is the address of a rendezvous; a node without it is
// one: it serves NATS at port 4222, in which it lets only those who may link to it. "membership" is
// the folder that an authority made for this node (node ca, docs/membership.md). Instead there can be a
// list of who may link, and is linked to:
//
//	"peers": [{"id": "PEER-ID, as the other host's `node id` prints it", "name": "h2"}],
//
// The TAP is vias0, the overlay's port any that is free, the status socket /run/vias/NETWORK.sock.
// Workloads are attached while it runs (node attach), or are in the file:
//
//	"endpoints": [{"name": "c1", "mac": "02:77:00:00:00:01", "ips": ["10.77.0.1"]}],
//
// What it takes besides to bypass:
//
//	"bridge": "br0", "openflow": "unix:/run/openvswitch/br0.mgmt", "uplink": "eth0",
//	"policy": {"default": "bypass", "rules": [{"port": 22, "action": "overlay"}]},
//
// with a "port" (the name of its port of the bridge) for each endpoint. On a bridge
// with the user-space datapath the TAP must be there before the node and stay after
// it (ip tuntap add dev vias0 mode tap), since Open vSwitch does not notice when it
// is made anew. Package internal/nodecfg documents every field.
//
// The node waits for what is not there yet: switch, rendezvous, peers, ports of the
// bridge, its own address. It says so in its log. The exit code is 0 after an
// orderly end, 1 after a failure, 2 for a wrong command line or configuration. A
// second signal ends it at once; what it then leaves in the switch goes with its
// lease.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/viasnet/vias/internal/nodecfg"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// errUsage: the command line or the configuration is wrong.
var errUsage = errors.New("usage")

// command is a subcommand.
type command func(ctx context.Context, args []string, stdout, stderr io.Writer) error

// run is main without its process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	commands := map[string]command{
		"": runCommand, "run": runCommand, "check": checkCommand, "status": statusCommand,
		"policy": policyCommand, "attach": attachCommand, "detach": detachCommand, "id": idCommand,
		"ca": caCommand,
	}
	do := commands[name]
	if do == nil {
		fmt.Fprintf(stderr, "node: no command %q: there are run, check, status, policy, attach, detach, id and ca\n", name)
		return 2
	}
	err := do(ctx, args, stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errChecked):
		return 1 // all is said
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "node:", oneLine(err))
		return 2
	}
	fmt.Fprintln(stderr, "node:", oneLine(err))
	return 1
}

// usageError makes err one for exit code 2, without a word more.
type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }

func (e usageError) Unwrap() error { return e.error }

// oneLine joins the lines that errors.Join makes.
func oneLine(err error) string {
	return strings.Join(strings.Split(strings.TrimSpace(err.Error()), "\n"), "; ")
}

// flags is a flag set whose mistakes are usage errors.
func flags(name string, stderr io.Writer) *flag.FlagSet {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(stderr)
	return set
}

// parse reads a command line that may have at most n arguments behind its flags.
func parse(set *flag.FlagSet, args []string, n int) error {
	output := set.Output()
	set.SetOutput(io.Discard) // the error says what is wrong, in one line
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		set.SetOutput(output)
		fmt.Fprintf(output, "node %s:\n", set.Name())
		set.PrintDefaults()
		return err
	case err != nil:
		return usageError{err}
	case set.NArg() > n:
		return usageError{fmt.Errorf("%s: unexpected argument %q", set.Name(), set.Arg(n))}
	}
	return nil
}

// configFlag adds -config.
func configFlag(set *flag.FlagSet) *string {
	return set.String("config", "", "the node's configuration `file`")
}

// load reads the configuration.
func load(path string) (*nodecfg.Config, error) {
	if path == "" {
		return nil, usageError{errors.New("-config FILE is missing")}
	}
	cfg, err := nodecfg.Load(path)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}
