package embedded

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	logLines  = 10 // that strangers can make us write each
	logPeriod = 10 * time.Second
)

// natsLog writes nats-server's log. Most of what it calls an error is a client's mistake,
// so the number of lines is bounded; those over it are for debugging. What it calls
// fatal is about to end the process.
type natsLog struct {
	*slog.Logger

	mu    sync.Mutex
	since time.Time
	lines int
}

func (l *natsLog) few() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) > logPeriod {
		l.since, l.lines = now, 0
	}
	l.lines++
	return l.lines <= logLines
}

func (l *natsLog) Noticef(format string, v ...any) { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Debugf(format string, v ...any)  { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Tracef(format string, v ...any)  { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Fatalf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Errorf(format string, v ...any)  { l.Warnf(format, v...) }

// Warnf writes a warning, if there were not too many just now.
func (l *natsLog) Warnf(format string, v ...any) {
	if l.few() {
		l.Warn("nats: " + fmt.Sprintf(format, v...))
	} else {
		l.Noticef(format, v...)
	}
}
