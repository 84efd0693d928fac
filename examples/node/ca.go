package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/viasnet/vias/overlay"
	"github.com/viasnet/vias/overlay/membership"
)

const caUsage = `node ca says who is a member of a network. Its folder (-dir, "ca" if not given) is secret.
  node ca init -network NAME [-dir DIR]   make the authority of the network
  node ca issue [-days N] REQUEST...      make members: files that node id -request printed on their nodes
  node ca issue [-days N] ID...           renew certificates; -all: of all members
  node ca revoke ID...                    end memberships for ever
  node ca rotate                          make a second authority beside the first
  node ca retire                          drop the first, when all nodes have their folders since
  node ca show                            authorities and members
`

// office is a use of an authority.
type office struct {
	*membership.Authority
	args   []string
	all    bool
	life   time.Duration
	stdout io.Writer
}

// caCommand is for whoever says who is a member.
func caCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	commands := map[string]func(office) error{
		"issue": office.issue, "revoke": office.revoke, "rotate": office.rotate, "retire": office.retire, "show": office.show,
	}
	if len(args) == 0 {
		return usageError{errors.New("ca: say init, issue, revoke, rotate, retire or show: node ca -h explains them")}
	}
	name := args[0]
	if name == "-h" || name == "-help" || name == "--help" {
		fmt.Fprint(stderr, caUsage)
		return flag.ErrHelp
	}
	do := commands[name]
	if do == nil && name != "init" {
		return usageError{fmt.Errorf("ca: no command %q: there are init, issue, revoke, rotate, retire and show", name)}
	}
	set := flags("ca "+name, stderr)
	dir := set.String("dir", "ca", "the authority's `folder`")
	most := 0
	o, days, network := office{stdout: stdout}, new(int), new(string)
	switch name {
	case "init":
		network = set.String("network", "", "the network's `name`")
	case "issue":
		set.BoolVar(&o.all, "all", false, "renew all members' certificates")
		most = 1 << 16
	case "revoke":
		most = 1 << 16
	}
	if name == "issue" || name == "rotate" {
		days = set.Int("days", int(membership.DefaultLife/(24*time.Hour)), "how long certificates are valid, in `days`")
	}
	if err := parse(set, args[1:], most); err != nil {
		return err
	}
	if *days < 0 || *days > int(membership.AuthorityLife/(24*time.Hour)) {
		return usageError{fmt.Errorf("ca: -days %d: an authority itself is valid for %d", *days, int(membership.AuthorityLife/(24*time.Hour)))}
	}
	o.args, o.life = set.Args(), time.Duration(*days)*24*time.Hour
	if name == "init" {
		return initAuthority(*dir, *network, stdout)
	}
	return withAuthority(*dir, o, do)
}

func initAuthority(dir, network string, stdout io.Writer) error {
	if network == "" {
		return usageError{errors.New("ca init: -network NAME is missing")}
	}
	a, err := membership.CreateAuthority(dir, network)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "authority of network %s made in %s: keep that folder secret, and back it up\n"+
		"next: on each node: node id -identity FILE -request >REQUEST; here: node ca issue -dir %s REQUEST\n", network, dir, dir)
	return a.Close()
}

// withAuthority does something with an authority, which it locks meanwhile.
func withAuthority(dir string, o office, do func(office) error) (err error) {
	if o.Authority, err = membership.OpenAuthority(dir); err != nil {
		return fmt.Errorf("%w (node ca init makes one)", err)
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	return do(o)
}

// next says what follows for the nodes.
func (o office) next(ids []overlay.PeerID) error {
	for _, id := range ids {
		fmt.Fprintf(o.stdout, "%s\n", o.Folder(id))
	}
	_, err := fmt.Fprintln(o.stdout, `next: copy each folder to its node, where "membership" names it; a running node reads it by itself`)
	return err
}

func (o office) issue() error {
	if o.all == (len(o.args) > 0) {
		return usageError{errors.New("ca issue: name request files, or IDs of members, or say -all")}
	}
	var requests [][]byte
	var ids []overlay.PeerID
	for _, arg := range o.args {
		if id, err := overlay.ParsePeerID(arg); err == nil {
			ids = append(ids, id)
			continue
		}
		text, err := os.ReadFile(arg)
		if err != nil {
			return fmt.Errorf("ca issue: %q is no member's ID, nor can it be read as a request (%w): node id -request makes one", arg, err)
		}
		requests = append(requests, text)
	}
	var done []overlay.PeerID
	if len(requests) > 0 {
		made, err := o.Issue(o.life, requests...)
		if err != nil {
			return err
		}
		done = made
	}
	if len(ids) > 0 || o.all {
		renewed, err := o.Renew(o.life, ids...)
		if err != nil {
			return err
		}
		done = append(done, renewed...)
	}
	return o.next(done)
}

func (o office) revoke() error {
	var ids []overlay.PeerID
	for _, arg := range o.args {
		id, err := overlay.ParsePeerID(arg)
		if err != nil {
			return usageError{fmt.Errorf("ca revoke: %w: node ca show lists members", err)}
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return usageError{errors.New("ca revoke: name IDs of members: node ca show lists them")}
	}
	if err := o.Revoke(ids...); err != nil {
		return err
	}
	_, err := fmt.Fprintf(o.stdout, "revoked\nnext: copy the folder of any other member to its node, or all of them: nodes tell each other over their links\n")
	return err
}

func (o office) rotate() error {
	if err := o.Rotate(o.life); err != nil {
		return err
	}
	_, err := fmt.Fprintln(o.stdout, "there are two authorities now\nnext: copy all folders to their nodes, in any order; then node ca retire")
	return err
}

func (o office) retire() error {
	if err := o.Retire(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(o.stdout, "the old authority is gone\nnext: copy all folders to their nodes, in any order")
	return err
}

func (o office) show() error {
	members, err := o.Members()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "network %s\n\nAUTHORITY\tUNTIL\tNEXT LIST DUE\tREVOKED\n", o.Network())
	for _, a := range o.Authorities() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", a.Name, a.Until.UTC().Format(time.DateOnly), a.ListUntil.UTC().Format(time.DateOnly), a.Revoked)
	}
	fmt.Fprintf(w, "\nMEMBER\tUNTIL\tSTATE\n")
	for _, m := range members {
		state := "valid"
		switch left := time.Until(m.Until); {
		case m.Revoked:
			state = "revoked"
		case left < 0:
			state = "expired: node ca issue " + m.ID.String()
		case left < membership.DefaultLife/4:
			state = "ends soon: node ca issue " + m.ID.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.ID, m.Until.UTC().Format(time.DateOnly), state)
	}
	return w.Flush()
}
