package client

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TxnState is where a transaction of several shards stands on one of them.
type TxnState uint8

const (
	// TxnRunning: the shard decides, and has not yet.
	TxnRunning TxnState = iota + 1
	// TxnPrepared: another shard decides, and this one waits for that.
	TxnPrepared
	// TxnDecided: the shard has decided, and others have yet to do their parts.
	TxnDecided
)

// String returns the state's name.
func (s TxnState) String() string {
	names := [...]string{TxnRunning: "running", TxnPrepared: "prepared", TxnDecided: "decided"}
	if int(s) < len(names) && names[s] != "" {
		return names[s]
	}
	return "unknown"
}

// TxnInfo is a transaction of several shards as one of them sees it.
type TxnInfo struct {
	ID     string
	Shard  uint32 // that sees it
	State  TxnState
	Anchor uint32   // the shard that decides
	Others []uint32 // that take part, as far as this one knows
	// Revision at which it was prepared or decided; 0 while it runs.
	Revision uint64
	// Since is for how long it has been in this state, roughly.
	Since time.Duration
	Keys  []string // the first of those that it concerns there
}

// Txns returns the transactions of several shards that are under way, each as often as
// shards know of it: most are over within milliseconds.
func (c *Client) Txns(ctx context.Context) ([]TxnInfo, error) {
	var (
		mu  sync.Mutex // guards all
		all []TxnInfo
	)
	err := c.onAllShards(ctx, func(ctx context.Context, sh *shard, at target) (*kvdpb.ResponseHeader, error) {
		resp, err := at.kv.ListTxns(ctx, &kvdpb.ListTxnsRequest{Header: at.header})
		mu.Lock()
		defer mu.Unlock()
		for _, t := range resp.GetTxns() {
			info := TxnInfo{
				ID: t.Id, Shard: sh.id, State: TxnState(t.State), Anchor: t.Anchor, Others: t.Others,
				Revision: t.Revision, Since: time.Duration(t.SinceMs) * time.Millisecond,
			}
			for _, key := range t.Keys {
				info.Keys = append(info.Keys, string(key))
			}
			all = append(all, info)
		}
		return resp.GetHeader(), err
	})
	if err != nil {
		return nil, &Error{Op: "list transactions", Err: err}
	}
	slices.SortFunc(all, func(a, b TxnInfo) int {
		return cmp.Or(cmp.Compare(b.Since, a.Since), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Shard, b.Shard))
	})
	return all, nil
}

// ResolvedTxn is what has become of a transaction that a shard had prepared.
type ResolvedTxn struct {
	ID        string
	Shard     uint32 // that had prepared it
	Running   bool   // it goes on, and was left alone
	Committed bool   // it was executed; if neither, it was not, and will not be
	Revision  uint64 // of what was executed
}

// ResolveTxns has shards ask at once what has become of transactions that they have
// prepared (none given: of all), and do what was decided. They do so by themselves:
// what is left for longer than seconds waits for a shard without a quorum.
func (c *Client) ResolveTxns(ctx context.Context, ids ...string) ([]ResolvedTxn, error) {
	var (
		mu  sync.Mutex // guards all
		all []ResolvedTxn
	)
	err := c.onAllShards(ctx, func(ctx context.Context, sh *shard, at target) (*kvdpb.ResponseHeader, error) {
		resp, err := at.kv.ResolveTxns(ctx, &kvdpb.ResolveTxnsRequest{Header: at.header, Ids: ids})
		mu.Lock()
		defer mu.Unlock()
		for _, t := range resp.GetTxns() {
			all = append(all, ResolvedTxn{ID: t.Id, Shard: sh.id, Running: t.Running, Committed: t.Committed, Revision: t.Revision})
		}
		return resp.GetHeader(), err
	})
	if err != nil {
		return nil, &Error{Op: "resolve transactions", Err: err}
	}
	slices.SortFunc(all, func(a, b ResolvedTxn) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Shard, b.Shard)) })
	return all, nil
}

// onAllShards asks the leaders of all shards.
func (c *Client) onAllShards(ctx context.Context, ask func(context.Context, *shard, target) (*kvdpb.ResponseHeader, error)) error {
	t, err := c.waitMap(ctx, time.Until(c.deadline(ctx)))
	if err != nil {
		return err
	}
	return onShards(t.owning, func(sh *shard, _ func() bool) error {
		return c.askLeader(ctx, sh, func(ctx context.Context, at target) (*kvdpb.ResponseHeader, error) { return ask(ctx, sh, at) })
	})
}
