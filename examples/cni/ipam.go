package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// ipam runs the IPAM plugin of the configuration with a verb, for a, and returns what it
// answers; without one it does nothing. This is section 4 of the spec. The cni module's
// pkg/invoke would do it too, but needs OpenTelemetry.
func (p *plugin) ipam(ctx context.Context, verb string, a attachment) ([]byte, error) {
	name := p.conf.IPAM.Type
	if name == "" {
		return nil, nil
	}
	program, err := findPlugin(name, p.args.Path)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	// Of several values of one name the last counts.
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+a.container, "CNI_IFNAME="+a.ifname, "CNI_NETNS="+p.args.Netns)
	cmd.Stdin = bytes.NewReader(p.args.StdinData)
	cmd.WaitDelay = time.Second // for who left children with our pipes
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var said types.Error
		if json.Unmarshal(out.Bytes(), &said) == nil && said.Msg != "" {
			return nil, types.NewError(said.Code, "IPAM plugin "+name+": "+said.Msg, said.Details)
		}
		return nil, failure(types.ErrInternal, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String())),
			"IPAM plugin "+name+" failed at "+verb+" without saying why; run it by hand with this configuration")
	}
	return out.Bytes(), nil
}

func findPlugin(name, path string) (string, error) {
	if name != filepath.Base(name) {
		return "", failure(types.ErrInvalidNetworkConfig, nil, fmt.Sprintf("ipam.type: %q is no plugin's name", name))
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		switch st, err := os.Stat(file); {
		case err == nil && st.Mode().IsRegular():
			return file, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", failure(types.ErrIOFailure, err, "IPAM plugin "+name+" cannot be read")
		}
	}
	return "", failure(types.ErrInvalidNetworkConfig, nil, fmt.Sprintf("ipam.type: there is no plugin %q in CNI_PATH (%s); install it there", name, path))
}

// addresses has the IPAM plugin give addresses, and returns its result; an empty one without.
func (p *plugin) addresses(ctx context.Context, a attachment) (*types100.Result, error) {
	text, err := p.ipam(ctx, "ADD", a)
	if err != nil || text == nil {
		return &types100.Result{}, err
	}
	result, err := resultOf(text, p.conf.CNIVersion)
	if err == nil && len(result.IPs) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		err = failure(types.ErrDecodingFailure, err, "IPAM plugin "+p.conf.IPAM.Type+" gave no result that can be used; run it by hand with this configuration")
		if _, left := p.ipam(ctx, "DEL", a); left != nil { // it may have given addresses all the same
			err = withDetails(err, "left for DEL: "+left.Error())
		}
		return nil, err
	}
	return result, nil
}

// resultOf reads a plugin's result; without a version it has the configuration's.
func resultOf(text []byte, version string) (*types100.Result, error) {
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("null")
	}
	if v, _ := fields["cniVersion"].(string); v == "" {
		fields["cniVersion"] = version
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	r, err := create.CreateFromBytes(text)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

// ipsOf are the addresses of a result that are interface number i's, or nobody's.
func ipsOf(r *types100.Result, i int) (list []ipConfig, err error) {
	for _, c := range r.IPs {
		if c.Interface != nil && *c.Interface != i {
			continue
		}
		prefix, err := prefixOf(c.Address)
		if err != nil {
			return nil, err
		}
		list = append(list, ipConfig{address: prefix, gateway: addrOf(c.Gateway)})
	}
	return list, nil
}

// routesOf are the routes of a result. One without a gateway takes that of the first address
// of its family, as the reference plugins have it.
func routesOf(r *types100.Result, ips []ipConfig) (list []route, err error) {
	for _, t := range r.Routes {
		dst, err := prefixOf(t.Dst)
		if err != nil {
			return nil, err
		}
		to := route{Route: *t, dst: dst, gateway: addrOf(t.GW)}
		for _, ip := range ips {
			if !to.gateway.IsValid() && ip.gateway.IsValid() && ip.gateway.Is4() == dst.Addr().Is4() {
				to.gateway = ip.gateway
			}
		}
		list = append(list, to)
	}
	return list, nil
}

func prefixOf(n net.IPNet) (netip.Prefix, error) {
	bits, size := n.Mask.Size()
	addr := addrOf(n.IP)
	if !addr.IsValid() || size != addr.BitLen() {
		return netip.Prefix{}, failure(types.ErrDecodingFailure, nil, fmt.Sprintf("%v is no address with its network's length", &n))
	}
	return netip.PrefixFrom(addr, bits), nil
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
