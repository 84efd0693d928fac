// Command cni is a CNI plugin (spec 1.1) that puts containers on the network of a vias node:
// examples/node, which runs beside it and has a bridge. Install it as vias into the folder of
// CNI plugins, with an IPAM plugin such as host-local beside it; docs/cni.md has a
// configuration, what each verb does and what its errors mean.
//
// It keeps no files. Everything it has to know again is in the names that it gives (attachment),
// in the external_ids of its ports in Open vSwitch's database, and in the node's endpoints: so
// there is nothing to get out of step when it, the node or the machine dies in the middle.
package main

import (
	"context"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// verbTime bounds one run of the plugin; runtimes wait for a minute or more.
const verbTime = 45 * time.Second

func main() { os.Exit(run()) }

// run is main without its process: it returns the exit code.
func run() int {
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    verb((*plugin).add),
		Del:    verb((*plugin).del),
		Check:  verb((*plugin).check),
		GC:     verb((*plugin).gc),
		Status: verb((*plugin).status),
	}, version.VersionsStartingFrom("0.3.1"), "vias: a CNI plugin for containers on a vias node")
	if err == nil {
		return 0
	}
	_ = err.Print() // to whom could its failure be told?
	return 1
}

// verb is one of the plugin's as skel calls it.
func verb(do func(*plugin, context.Context) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		p, err := newPlugin(args, realLinks{})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), verbTime)
		defer cancel()
		return do(p, ctx)
	}
}

// Error codes of the plugin's own; below 100 they are the spec's.
const (
	codeExists = 100 // there is an attachment, or an interface, of that name already
	codeBroken = 101 // CHECK: something is not as ADD left it
	codeKernel = 102 // the kernel refused a link, an address or a route
	codeSwitch = 103 // Open vSwitch refused a port
)

// failure is a CNI error: what is wrong and what to do about it, and the cause.
func failure(code uint, cause error, text string) *types.Error {
	e := types.NewError(code, text, "")
	if cause != nil {
		e.Details = cause.Error()
	}
	return e
}
