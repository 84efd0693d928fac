package icedtls

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// pionLog sends pion's log lines to a slog.Logger. They are all of level Debug:
// what is an error to pion, such as a datagram of a stranger, is none to us.
type pionLog struct {
	log   *slog.Logger
	scope string
}

var (
	_ logging.LoggerFactory = pionLog{}
	_ logging.LeveledLogger = pionLog{}
)

// NewLogger implements logging.LoggerFactory.
func (p pionLog) NewLogger(scope string) logging.LeveledLogger { return pionLog{p.log, scope} }

func (p pionLog) line(msg string) { p.log.Debug(msg, "part", p.scope) }

func (p pionLog) format(format string, args []any) {
	if p.log.Enabled(context.Background(), slog.LevelDebug) {
		p.line(fmt.Sprintf(format, args...))
	}
}

// pion traces every datagram: those lines are dropped.

// Trace implements logging.LeveledLogger, as do all below.
func (p pionLog) Trace(string)                 {}
func (p pionLog) Tracef(string, ...any)        {}
func (p pionLog) Debug(msg string)             { p.line(msg) }
func (p pionLog) Debugf(f string, args ...any) { p.format(f, args) }
func (p pionLog) Info(msg string)              { p.line(msg) }
func (p pionLog) Infof(f string, args ...any)  { p.format(f, args) }
func (p pionLog) Warn(msg string)              { p.line(msg) }
func (p pionLog) Warnf(f string, args ...any)  { p.format(f, args) }
func (p pionLog) Error(msg string)             { p.line(msg) }
func (p pionLog) Errorf(f string, args ...any) { p.format(f, args) }
