//go:build linux

package measure

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Other overlays, each as its documentation sets it up for speed.

func upWireGuard(ctx context.Context, w *wire, bin string) error {
	var public [2]string
	for s := range side(2) {
		key, err := output(ctx, "wg", "genkey")
		if err != nil {
			return err
		}
		file := w.file(s, "key")
		if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
			return err
		}
		if public[s], err = output(ctx, "sh", "-c", "wg pubkey <"+file); err != nil {
			return err
		}
		if err := w.tunnel(s, []string{"WG_PROCESS_FOREGROUND=1"}, filepath.Join(bin, "wireguard"), "-f", w.dev(s)); err != nil {
			return err
		}
	}
	if err := w.address(ctx, 1420); err != nil {
		return err
	}
	for s := range side(2) {
		err := w.all(ctx, s, fmt.Sprintf("wg set %s private-key %s listen-port 51820 peer %s endpoint %s:51820 allowed-ips 198.19.7.0/24",
			w.dev(s), w.file(s, "key"), strings.TrimSpace(public[1-s]), (1-s).wire()))
		if err != nil {
			return err
		}
	}
	return nil
}

// file is a name in the wire's directory.
func (w *wire) file(s side, name string) string { return filepath.Join(w.dir, s.String()+"."+name) }

const nebulaConfig = `pki: {ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key}
static_host_map: {"%[3]s": ["%[4]s:4242"]}
lighthouse: {am_lighthouse: false, hosts: []}
listen: {host: 0.0.0.0, port: 4242, read_buffer: 10485760, write_buffer: 10485760}
routines: 1
cipher: aes
tun: {dev: %[5]s, mtu: 1420, tx_queue: 500}
logging: {level: warning, format: text}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`

func upNebula(ctx context.Context, w *wire, bin string) error {
	cert := filepath.Join(bin, "nebula-cert")
	line := fmt.Sprintf("cd %[1]s && %[2]s ca -name ca -duration 24h && %[2]s sign -name a -ip %[3]s/24 && %[2]s sign -name b -ip %[4]s/24",
		w.dir, cert, overA, overB)
	if err := w.do(ctx, "sh", "-c", line); err != nil {
		return err
	}
	for s := range side(2) {
		text := fmt.Sprintf(nebulaConfig, w.dir, s, (1 - s).over(), (1 - s).wire(), w.dev(s))
		if err := os.WriteFile(w.file(s, "yml"), []byte(text), 0o600); err != nil {
			return err
		}
		if err := w.tunnel(s, nil, filepath.Join(bin, "nebula"), "-config", w.file(s, "yml")); err != nil {
			return err
		}
	}
	return w.address(ctx, 0)
}

func upOpenVPN(ctx context.Context, w *wire, _ string) error {
	var prints [2]string
	for s := range side(2) {
		err := w.do(ctx, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
			"-subj", "/CN="+s.String(), "-keyout", w.file(s, "key"), "-out", w.file(s, "crt"))
		if err != nil {
			return err
		}
		out, err := output(ctx, "openssl", "x509", "-in", w.file(s, "crt"), "-noout", "-fingerprint", "-sha256")
		if err != nil {
			return err
		}
		_, prints[s], _ = strings.Cut(strings.TrimSpace(out), "=")
	}
	for _, s := range []side{1, 0} {
		args := []string{"openvpn", "--dev", w.dev(s), "--dev-type", "tap", "--proto", "udp", "--port", "1194", "--data-ciphers", "AES-256-GCM",
			"--sndbuf", "4194304", "--rcvbuf", "4194304", "--fast-io", "--txqueuelen", "1000", "--verb", "3", "--tun-mtu", "1500", "--mssfix", "1492",
			"--cert", w.file(s, "crt"), "--key", w.file(s, "key"), "--peer-fingerprint", prints[1-s]}
		if s == 1 {
			args = append(args, "--local", wireB, "--tls-server", "--dh", "none")
		} else {
			args = append(args, "--remote", wireB, "--nobind", "--tls-client")
		}
		if err := w.tunnel(s, nil, args...); err != nil {
			return err
		}
	}
	return w.address(ctx, 1400)
}

func upTinc(ctx context.Context, w *wire, _ string) error {
	for s := range side(2) {
		hosts := filepath.Join(w.dir, "tinc"+s.String(), "hosts")
		if err := os.MkdirAll(hosts, 0o755); err != nil {
			return err
		}
		config := fmt.Sprintf("Name = %s\nMode = switch\nDeviceType = tap\nInterface = %s\nPMTU = 1500\nUDPRcvBuf = 4194304\nUDPSndBuf = 4194304\n", s, w.dev(s))
		if s == 0 {
			config += "ConnectTo = b\n"
		}
		if err := os.WriteFile(filepath.Join(hosts, "..", "tinc.conf"), []byte(config), 0o644); err != nil {
			return err
		}
		err := w.do(ctx, "sh", "-c", fmt.Sprintf(`cd %s && umask 077 && openssl genrsa -traditional -out tinc%[2]s/rsa_key.priv 2048 2>&1 &&
			{ echo "Address = %[3]s 655"; openssl rsa -in tinc%[2]s/rsa_key.priv -RSAPublicKey_out 2>/dev/null; } >host%[2]s`, w.dir, s, s.wire()))
		if err != nil {
			return err
		}
	}
	err := w.do(ctx, "sh", "-c", fmt.Sprintf("cd %s && for s in a b; do cp hosta tinc$s/hosts/a && cp hostb tinc$s/hosts/b; done", w.dir))
	if err != nil {
		return err
	}
	for _, s := range []side{1, 0} {
		err := w.tunnel(s, nil, "tincd", "-c", filepath.Join(w.dir, "tinc"+s.String()), "-D", "--pidfile="+w.file(s, "pid"))
		if err != nil {
			return err
		}
		select { // b first: a tries again only after 5 s
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	return w.address(ctx, 1400)
}
