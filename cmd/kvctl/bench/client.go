package bench

import (
	"context"
	"errors"

	"github.com/kvd-io/kvd/client"
)

// Client is a kvd cluster as a Target, reached through one client that all
// goroutines share.
type Client struct {
	KV *client.Client
}

// Put implements Target.
func (c Client) Put(ctx context.Context, key string, value []byte) error {
	_, err := c.KV.Put(ctx, key, value)
	return err
}

// Get implements Target.
func (c Client) Get(ctx context.Context, key string) (bool, error) {
	return found(c.KV.Get(ctx, key))
}

// GetStale implements Target.
func (c Client) GetStale(ctx context.Context, key string) (bool, error) {
	return found(c.KV.Get(ctx, key, client.Stale()))
}

// Transact implements Target.
func (c Client) Transact(ctx context.Context, keys []string, writes int, value []byte) error {
	_, err := c.KV.Transact(ctx, func(tx *client.Tx) error {
		for i, key := range keys {
			if _, err := tx.Get(key); err != nil && !errors.Is(err, client.ErrNotFound) {
				return err
			}
			if i >= writes {
				continue
			}
			if err := tx.Put(key, value); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// PutAll implements Target.
func (c Client) PutAll(ctx context.Context, keys []string, value []byte) error {
	txn := client.Txn{Then: make([]client.Op, len(keys))}
	for i, key := range keys {
		txn.Then[i] = client.OpPut(key, value)
	}
	_, err := c.KV.Txn(ctx, txn)
	return err
}

func found(_ client.KeyValue, err error) (bool, error) {
	if errors.Is(err, client.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
