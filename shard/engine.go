package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/proto/planted"
	"github.com/kvd-io/kvd/shard/raftlog"
	"github.com/kvd-io/kvd/shard/transport"
)

const (
	// maxAppendEntries is how many entries raft stores, sends or applies at
	// once; their bytes are bounded by the proposer and the transport.
	maxAppendEntries = 256
	// maxUnapplied bounds the bytes of a shard's entries that are committed and
	// not applied when more come; the proposer has few in flight as it is.
	maxUnapplied = 16 << 20
	// stopTimeout bounds the wait for raft to stop: if the disk hangs it never
	// does.
	stopTimeout = 10 * time.Second
	// snapshotNever: raft takes snapshots only when told to, after checkpoints.
	snapshotNever = 24 * time.Hour
)

// engine is one life of a raft.Raft object. A replica has one after another:
// a raft that is stuck is replaced.
type engine struct {
	raft     *raft.Raft
	began    time.Time
	group    *transport.Group
	notify   chan bool
	drained  chan struct{}       // closed when nobody reads notify any more
	hurry    func() (end func()) // has the store's checkpoints not rest
	stopping atomic.Bool
	gone     chan struct{} // closed when raft answers nothing any more
	stopErr  error         // set before gone is closed
}

// startEngine runs raft over the replica's log and store.
func (r *Replica) startEngine() (*engine, error) {
	var running atomic.Pointer[raft.Raft] // the group needs raft, raft needs the group
	group, err := r.cfg.transport.Group(transport.GroupConfig{
		ID: r.id,
		State: func() (uint64, bool) {
			ra := running.Load()
			if ra == nil {
				return 0, false
			}
			return ra.CurrentTerm(), ra.State() == raft.Follower
		},
		Commit: func() (uint64, time.Duration) {
			// Until an entry of its own term is applied, a new leader's commit
			// index may lie below writes that were acknowledged already.
			ra := running.Load()
			g, _ := r.throne.get()
			if ra == nil || g == nil || g.engine.raft != ra || g.term != ra.CurrentTerm() {
				return unknownCommit, 0
			}
			index, err := r.log.LastCommand(ra.CommitIndex())
			if err != nil {
				return unknownCommit, 0 // nobody is level with a log that cannot be read
			}
			proved := g.engine.group.Proved(g.term, g.engine.voters())
			if proved.IsZero() {
				return unknownCommit, 0
			}
			return index, time.Since(proved)
		},
		OnHeartbeat: r.staleness.heard,
		Healthy:     func() bool { return !r.log.Stalled() },
		Admit: func(ctx context.Context) error {
			ra := running.Load()
			if ra == nil {
				return nil
			}
			return r.admit(ctx, ra.CommitIndex())
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open transport group: %w", err)
	}
	e := &engine{
		began: time.Now(), group: group, hurry: r.store.Hurry,
		notify: make(chan bool, 1), drained: make(chan struct{}), gone: make(chan struct{}),
	}
	conf := r.raftConfig(e.notify)
	err = guarded(func() (err error) {
		if err := r.bootstrap(conf, group); err != nil {
			return err
		}
		e.raft, err = raft.NewRaft(conf, r.fsm, r.log, r.log, r.snapshots, group)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), group.Close())
	}
	running.Store(e.raft)
	go func() {
		// Raft stands still until its notices are taken.
		defer close(e.drained)
		for range e.notify {
			poke(r.leadershipMoved)
		}
	}()
	return e, nil
}

// admit waits until there is memory for what a leader sends: what is applied and
// not checkpointed is within the node's budget, and what is committed and not
// applied, which raft counts by entries alone, within maxUnapplied. Neither
// needs anything more of the leader to shrink.
func (r *Replica) admit(ctx context.Context, commit uint64) error {
	if err := r.cfg.budget.Wait(ctx); err != nil {
		return err
	}
	index := r.log.Beyond(commit, maxUnapplied)
	if index <= r.store.AppliedIndex() {
		return nil
	}
	index, err := r.log.LastCommand(index)
	if err != nil {
		return err
	}
	return r.store.WaitApplied(ctx, index)
}

// guarded runs what reads the log before raft runs: raft panics on an entry
// that cannot be read, and a log that has failed ends the goroutine.
func guarded(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := raftlog.ErrFailed
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
			done <- err
		}()
		err = f()
	}()
	return <-done
}

// stop ends raft and waits for it. The error, ErrStuck, says that it still runs.
func (e *engine) stop() error {
	if e.stopping.Swap(true) {
		<-e.gone
		return e.stopErr
	}
	defer close(e.gone)
	defer e.hurry()() // raft may be at a snapshot, which waits for a checkpoint
	// No late message may meet a raft or a store that is going.
	if e.stopErr = e.group.Close(); e.stopErr != nil {
		return e.stopErr
	}
	go func() {
		_ = e.raft.Shutdown().Error()
		close(e.notify)
	}()
	select {
	case <-e.drained:
	case <-time.After(stopTimeout):
		e.stopErr = ErrStuck
	}
	return e.stopErr
}

func (r *Replica) raftConfig(notify chan<- bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(r.cfg.node)
	c.HeartbeatTimeout = r.cfg.timing.Heartbeat
	c.ElectionTimeout = r.cfg.timing.Election
	c.LeaderLeaseTimeout = r.cfg.timing.LeaderLease
	c.CommitTimeout = r.cfg.timing.Commit
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true
	c.ShutdownOnRemove = false
	c.SnapshotInterval = snapshotNever
	c.SnapshotThreshold = math.MaxUint64
	c.TrailingLogs = r.cfg.retention.LogEntries
	c.NoSnapshotRestoreOnStart = true // the store holds the state itself
	c.NoLegacyTelemetry = true
	c.NotifyCh = notify
	c.Logger = newRaftLogger(r.logger)
	return c
}

// bootstrap gives a replica that has nothing yet the configuration that all
// its peers give themselves.
func (r *Replica) bootstrap(conf *raft.Config, group *transport.Group) error {
	has, err := raft.HasExistingState(r.log, r.log, r.snapshots)
	if err != nil {
		return fmt.Errorf("look for raft state: %w", err)
	}
	if has {
		return nil
	}
	var servers raft.Configuration
	for _, node := range r.cfg.members {
		servers.Servers = append(servers.Servers, raft.Server{
			ID: raft.ServerID(node), Address: raft.ServerAddress(node),
		})
	}
	if err := raft.BootstrapCluster(conf, r.log, r.log, r.snapshots, group, servers); err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	return nil
}

// voters returns the ids of the group's voters.
func (e *engine) voters() []string {
	servers := e.raft.GetConfiguration().Configuration().Servers
	voters := make([]string, 0, len(servers))
	for _, s := range servers {
		if s.Suffrage == raft.Voter || planted.Bug(planted.NonVoterCounted) {
			voters = append(voters, string(s.ID))
		}
	}
	return voters
}

// leads tells whether raft leads in term, now.
func (e *engine) leads(term uint64) bool {
	return e.raft.State() == raft.Leader && e.raft.CurrentTerm() == term
}

// await waits for a future of this raft, but not beyond ctx, nor beyond raft's
// end: raft leaves futures unanswered when it stops at the wrong moment.
func (e *engine) await(ctx context.Context, f raft.Future) error {
	bounded := endsWith(f, e.gone)
	if bounded && ctx.Done() == nil {
		return f.Error()
	}
	done := make(chan error, 1)
	go func() { done <- f.Error() }() // ends with the future, or with raft
	select {
	case err := <-done:
		return err
	case <-e.gone:
		return raft.ErrRaftShutdown
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endsWith makes the future answer ErrRaftShutdown once gone is closed, if it
// has no answer by then, and reports whether it could. Raft has the means in all
// its futures that wait, but gives it to few: without it, the goroutine that
// waits would stay for ever. Only Error reads the field, and it was not called.
func endsWith(f raft.Future, gone chan struct{}) bool {
	v := reflect.Indirect(reflect.ValueOf(f))
	if v.Kind() != reflect.Struct {
		return false
	}
	field := v.FieldByName("ShutdownCh")
	if !field.CanSet() || field.Type() != reflect.TypeOf(gone) {
		return false
	}
	field.Set(reflect.ValueOf(gone))
	return true
}

// poke wakes the one who waits on c, of capacity 1, now or when he next looks.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
