package underlay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// nftShell is a child `nft -i`: each line written to it is one transaction, made
// over the one netlink socket that the child holds for life. run is not for
// concurrent use (Underlay.guardMu sees to that).
//
// No parent-death signal: it would fire when the *thread* that started the child
// ends. The end of its input, which the kernel brings about whatever becomes of
// us, is the safer sign; no other process holds that pipe (close-on-exec).
type nftShell struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	lines   chan string // what nft prints
	exited  chan struct{}
	exitErr error // valid once exited is closed
	serial  int
	closing sync.Once
}

// startNFT starts the child in u's namespace. It gets a process group of its own:
// Ctrl-C on a terminal must not end the guard before the node has ended.
func startNFT(u *Underlay) (*nftShell, error) {
	s := &nftShell{lines: make(chan string, 16), exited: make(chan struct{})}
	s.cmd = exec.Command(u.cfg.NFT, "-n", "-i")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, w := io.Pipe()
	s.cmd.Stdout, s.cmd.Stderr = w, w
	if err := u.inNamespace(s.cmd.Start); err != nil {
		return nil, fmt.Errorf("start nft: %w", err)
	}
	go s.read(out)
	go s.wait(w)
	return s, nil
}

// read hands over nft's lines; it ends when the child did.
func (s *nftShell) read(out *io.PipeReader) {
	defer close(s.lines)
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 4<<20) // nft repeats a faulty line, and ours are long
	for sc.Scan() {
		select {
		case s.lines <- sc.Text():
		case <-s.exited:
		}
	}
	_, _ = io.Copy(io.Discard, out) // never let the child block on its output
}

func (s *nftShell) wait(w *io.PipeWriter) {
	s.exitErr = s.cmd.Wait()
	close(s.exited)
	_ = w.Close()
}

// run executes one line and returns when nft has made it so, or refused.
//
// nft says nothing on success. So each line is followed by one that must fail in a
// known way: nft quotes it, and with it the serial number that we wait for. After
// an error other than errRefused the shell must be closed.
func (s *nftShell) run(ctx context.Context, line string) error {
	s.serial++
	mark := fmt.Sprintf("list table inet vias_mark_%d", s.serial)
	written := make(chan error, 1)
	go s.write(line+"\n"+mark+"\n", written)
	var said []string
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("nft: %w", context.Cause(ctx))
		case err := <-written:
			if err != nil {
				return fmt.Errorf("nft: %w", err)
			}
			written = nil
		case text, ok := <-s.lines:
			switch {
			case !ok:
				return fmt.Errorf("nft ended: %s", strings.Join(said, " "))
			case strings.HasPrefix(text, mark):
				return refusal(said)
			}
			said = append(said, text)
		}
	}
}

func (s *nftShell) write(text string, done chan<- error) {
	_, err := io.WriteString(s.in, text)
	done <- err
}

// errRefused: nft answered, and nothing was changed.
var errRefused = errors.New("nft refused")

// refusal makes an error of what nft said before the mark: the mark's own error
// line is the last, whatever precedes it is our line's.
func refusal(said []string) error {
	for _, t := range said[:max(len(said)-1, 0)] {
		if strings.HasPrefix(t, "Error") {
			return fmt.Errorf("%w: %s", errRefused, strings.TrimPrefix(t, "Error: "))
		}
	}
	return nil
}

// close ends the child and returns when it is gone; the kernel has removed the
// table by then. It is idempotent.
func (s *nftShell) close() error {
	var err error
	s.closing.Do(func() {
		_ = s.in.Close()
		select {
		case <-s.exited:
		case <-time.After(2 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.exited
			err = errors.New("underlay: nft did not end by itself and was killed")
		}
	})
	return err
}
