package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/server"
)

// closeTimeout bounds a graceful stop: drained calls, leadership handed over,
// a checkpoint written.
const closeTimeout = 30 * time.Second

// What kvd dev waits for before it says what to paste.
const (
	readyTimeout = 5 * time.Second
	readyPoll    = 10 * time.Millisecond
)

// Garbage collection, unless GOGC or GOMEMLIMIT say otherwise. What lives long
// in the heap is bounded, so time is worth more than space, up to a soft limit:
// for each node heapBase for queues and caches, and three times its budget of
// writes that are not in the data files yet, for those writes, the pages of the
// checkpoint that writes them, and garbage.
const (
	gcPercent     = 300
	heapBase      = 256 << 20
	heapPerBudget = 3
)

func tuneCollector(configs []server.Config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := int64(0)
	for _, c := range configs {
		limit += heapBase + heapPerBudget*cmp.Or(c.UncheckpointedBytes, server.DefaultUncheckpointedBytes)
	}
	debug.SetMemoryLimit(limit)
}

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// serve runs the nodes until a signal asks to stop or one of them fails. A
// second signal ends the process at once. running, if any, is called when all
// are ready, or take their time.
func serve(ctx context.Context, configs []server.Config, running func()) error {
	tuneCollector(configs)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	// Once the first signal has come, the next one has its default effect.
	context.AfterFunc(ctx, stop)

	faults, err := injectFaults(configs)
	if err != nil {
		return err
	}
	defer faults.close()
	nodes, err := openAll(ctx, configs)
	if err != nil {
		return errors.Join(err, closeAll(nodes))
	}
	faults.control(nodes)
	if running != nil {
		awaitReady(ctx, nodes)
		running()
	}
	err = wait(ctx, nodes)
	return errors.Join(err, closeAll(nodes))
}

// openAll opens the nodes side by side, since each may wait for the others. It
// returns those that opened even when others did not.
func openAll(ctx context.Context, configs []server.Config) ([]*server.Node, error) {
	opened := make([]*server.Node, len(configs))
	errs := make([]error, len(configs))
	var wg sync.WaitGroup
	for i, c := range configs {
		wg.Go(func() { opened[i], errs[i] = server.Open(ctx, c) })
	}
	wg.Wait()
	nodes := opened[:0]
	for _, n := range opened {
		if n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes, errors.Join(errs...)
}

// awaitReady waits until all nodes are ready, but not for ever.
func awaitReady(ctx context.Context, nodes []*server.Node) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for _, n := range nodes {
		for n.Ready() != nil {
			select {
			case <-ctx.Done():
				return
			case <-n.Done():
				return
			case <-poll.C:
			}
		}
	}
}

// wait returns nil when ctx ends, or the error of the first node that failed.
func wait(ctx context.Context, nodes []*server.Node) error {
	failed := make(chan *server.Node, len(nodes))
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, n := range nodes {
		wg.Go(func() {
			select {
			case <-n.Done():
				failed <- n
			case <-ctx.Done():
			}
		})
	}
	select {
	case <-ctx.Done():
		return nil
	case n := <-failed:
		return fmt.Errorf("node %s stopped: %w", n.Name(), n.Err())
	}
}

// closeAll closes the nodes side by side: each hands its shards to another.
func closeAll(nodes []*server.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
