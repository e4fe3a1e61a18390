package shard

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands what raft logs at WARN and above to slog, as warnings: what
// raft calls an error is a peer that it cannot reach, or one that is closing.
// What has to be an error, like a disk that fails, is reported where it happens.
type raftLogger struct {
	out  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = raftLogger{}

func newRaftLogger(out *slog.Logger) hclog.Logger { return raftLogger{out: out, name: "raft"} }

func (l raftLogger) Log(level hclog.Level, msg string, args ...any) {
	if level < hclog.Warn {
		return
	}
	for i, arg := range args {
		if f, ok := arg.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	l.out.Log(context.Background(), slog.LevelWarn, l.name+": "+msg, args...)
}

func (l raftLogger) Trace(string, ...any)           {}
func (l raftLogger) Debug(string, ...any)           {}
func (l raftLogger) Info(string, ...any)            {}
func (l raftLogger) Warn(msg string, args ...any)   { l.Log(hclog.Warn, msg, args...) }
func (l raftLogger) Error(msg string, args ...any)  { l.Log(hclog.Error, msg, args...) }
func (l raftLogger) IsTrace() bool                  { return false }
func (l raftLogger) IsDebug() bool                  { return false }
func (l raftLogger) IsInfo() bool                   { return false }
func (l raftLogger) IsWarn() bool                   { return true }
func (l raftLogger) IsError() bool                  { return true }
func (l raftLogger) ImpliedArgs() []any             { return l.args }
func (l raftLogger) Name() string                   { return l.name }
func (l raftLogger) Named(name string) hclog.Logger { l.name += "." + name; return l }
func (l raftLogger) ResetNamed(name string) hclog.Logger {
	l.name = name
	return l
}
func (l raftLogger) SetLevel(hclog.Level)  {}
func (l raftLogger) GetLevel() hclog.Level { return hclog.Warn }
func (l raftLogger) With(args ...any) hclog.Logger {
	l.out = l.out.With(args...)
	l.args = append(l.args[:len(l.args):len(l.args)], args...)
	return l
}
func (l raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
func (l raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }
