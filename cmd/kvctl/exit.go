package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/kvd-io/kvd/client"
)

// Exit statuses, which scripts rely on.
const (
	exitDone         = 0
	exitFailed       = 1
	exitUsage        = 2
	exitConditionNot = 3
	exitNothingThere = 4
)

// usageError is a mistake in how kvctl was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// existsError is the failed condition of a write that was only to create.
type existsError struct{ err error }

func (e *existsError) Error() string { return e.err.Error() }
func (e *existsError) Unwrap() error { return e.err }

var (
	// errNothing ends a command whose (empty) answer has been printed: there
	// was nothing to return.
	errNothing = errors.New("no keys in this range")
	// errNoVersions ends a history, likewise.
	errNoVersions = errors.New("no versions of this key are kept")
	// errNoTxn ends a txn resolve, likewise.
	errNoTxn = errors.New("no shard has prepared this transaction: it is over, or never was")
	// errUnhealthy ends a check whose findings have been printed.
	errUnhealthy = errors.New("check failed")
	// errDifferent and errNotCompared end a check of replicas, likewise.
	errDifferent   = errors.New("replicas differ")
	errNotCompared = errors.New("replicas could not be compared")
)

// exitStatus of a command that ended with err.
func exitStatus(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrConditionFailed), errors.Is(err, errOtherwise):
		return exitConditionNot
	case errors.Is(err, client.ErrNotFound), errors.Is(err, errNothing), errors.Is(err, errNoVersions), errors.Is(err, errNoTxn):
		return exitNothingThere
	default:
		return exitFailed
	}
}

// report prints err on one line, with what to do next.
func report(stderr io.Writer, command string, err error) {
	line := "kvctl: " + oneLine(err.Error())
	if next := nextStep(command, err); next != "" {
		line += " - " + next
	}
	fmt.Fprintln(stderr, line)
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// nextStep tells what the user can do about err.
func nextStep(command string, err error) string {
	var usage *usageError
	var compacted *client.CompactedError
	var file *fs.PathError
	var exists *existsError
	var run *commandError
	var late *lateError
	switch {
	case errors.As(err, &usage):
		return fmt.Sprintf("see '%s --help'", command)
	case errors.As(err, &exists):
		return "the key exists: choose another one, or replace what you have read of it with --if-revision and its mod_revision"
	case errors.Is(err, client.ErrConditionFailed):
		return "read the key again (kvctl get KEY -o json) and repeat with its mod_revision"
	case errors.Is(err, errOtherwise):
		return "read what it compares again, and repeat it with what is there now"
	case errors.Is(err, client.ErrTooManyKeys):
		return "nothing was done: split it, or delete with 'kvctl del --prefix P', which is not atomic"
	case errors.Is(err, client.ErrNotFound):
		return "see which keys there are: kvctl range --keys-only --prefix P"
	case errors.Is(err, errNoTxn):
		return "kvctl txn list shows what is under way"
	case errors.Is(err, errNothing):
		return "see which keys there are: kvctl range --keys-only --limit 10"
	case errors.Is(err, errNoVersions):
		return "see which keys there are: kvctl range --keys-only --prefix P"
	case errors.Is(err, errUnhealthy):
		return "see 'kvctl status' and the logs of the nodes named above"
	case errors.Is(err, errDifferent):
		return "stop the nodes marked different, keep their data directories, and see 'Replicas differ' in docs/OPERATIONS.md"
	case errors.Is(err, errNotCompared):
		return "see 'kvctl status', and repeat the check when all nodes are ready"
	case errors.Is(err, client.ErrOutcomeUnknown):
		return "it may have been written or not: read the key before you repeat it"
	case errors.Is(err, client.ErrAnswerLost):
		return "the write is done: do not repeat it"
	case errors.As(err, &run):
		return fmt.Sprintf("go on with --from-revision %d", run.revision)
	case errors.As(err, &compacted) && strings.HasSuffix(command, " watch"):
		return fmt.Sprintf("what changed before is lost: go on with --from-revision %d, or see what there is first with --initial", compacted.Oldest)
	case errors.As(err, &compacted):
		return fmt.Sprintf("read at revision %d or later", compacted.Oldest)
	case errors.Is(err, client.ErrRevisionAhead):
		return "leave the revision out for what is there now"
	case errors.Is(err, client.ErrRequestExpired), errors.Is(err, client.ErrVoid):
		return "nothing was written by this attempt: repeat it"
	case errors.Is(err, client.ErrOverloaded):
		return "the cluster is busy: repeat it later, or wait longer with --timeout"
	case errors.Is(err, client.ErrKeyTooLarge), errors.Is(err, client.ErrKeyEmpty):
		return fmt.Sprintf("a key has 1 to %d bytes", client.MaxKeySize)
	case errors.Is(err, client.ErrValueTooLarge):
		return "split the value over several keys"
	case errors.Is(err, client.ErrInvalid):
		return "nothing was done: correct the request"
	case errors.As(err, &file) && (file.Op == "open" || file.Op == "read"):
		return "name a file that can be read, or - for stdin"
	case errors.Is(err, client.ErrInternal):
		return "this is a defect in kvd: please report it with the node's log"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.As(err, &late):
		return "nodes answer, but this was not done in time: a shard may lack a majority of its nodes (see 'kvctl check health'), or --timeout be too short"
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return "is kvd running there? check --endpoints; if it is, see 'kvctl check health' or wait longer with --timeout"
	default:
		return ""
	}
}
