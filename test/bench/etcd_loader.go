package main

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/cmd/kvctl/bench"
)

const (
	// etcdTxnOps is the most operations that etcd takes in a transaction by
	// default.
	etcdTxnOps = 128
	// etcdLoaders is the number of transactions in flight.
	etcdLoaders = 16
)

// etcdLoader joins concurrent puts in transactions: several times as fast as
// single puts, and the same data. It is used only to load keys before a
// measurement, and only with keys that are all different.
type etcdLoader struct {
	bench.Target
	client *clientv3.Client
	queue  chan etcdPut
	done   chan struct{}
	wg     sync.WaitGroup
}

type etcdPut struct {
	ctx  context.Context //nolint:containedctx // of the call that waits for the answer
	op   clientv3.Op
	errs chan error
}

func newEtcdLoader(t *etcdTarget) *etcdLoader {
	l := &etcdLoader{Target: t, client: t.clients[0], queue: make(chan etcdPut, etcdTxnOps), done: make(chan struct{})}
	for range etcdLoaders {
		l.wg.Go(l.run)
	}
	return l
}

func (l *etcdLoader) Put(ctx context.Context, key string, value []byte) error {
	put := etcdPut{ctx: ctx, op: clientv3.OpPut(key, string(value)), errs: make(chan error, 1)}
	select {
	case l.queue <- put:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-put.errs:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *etcdLoader) run() {
	for {
		select {
		case <-l.done:
			return
		case first := <-l.queue:
			l.commit(l.gather(first))
		}
	}
}

func (l *etcdLoader) gather(first etcdPut) []etcdPut {
	puts := []etcdPut{first}
	for len(puts) < etcdTxnOps {
		select {
		case p := <-l.queue:
			puts = append(puts, p)
		default:
			return puts
		}
	}
	return puts
}

func (l *etcdLoader) commit(puts []etcdPut) {
	ops := make([]clientv3.Op, len(puts))
	for i, p := range puts {
		ops[i] = p.op
	}
	_, err := l.client.Txn(puts[0].ctx).Then(ops...).Commit()
	for _, p := range puts {
		p.errs <- err
	}
}

func (l *etcdLoader) close() {
	close(l.done)
	l.wg.Wait()
}
