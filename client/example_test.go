package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/client"
)

func Example() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	if _, err := c.Put(ctx, "greeting", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	kv, err := c.Get(ctx, "greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s at revision %d\n", kv.Value, kv.ModRevision)
}

// What is wrong with a configuration is told before anything is dialled.
func ExampleNew() {
	_, err := client.New(client.Config{})
	fmt.Println(err)
	// Output: client: no endpoints: give the client address (HOST:PORT) of at least one node
}

// Increment a counter, whatever others do at the same time.
func ExampleClient_Put_compareAndSet() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	for {
		kv, err := c.Get(ctx, "visits")
		if err != nil && !errors.Is(err, client.ErrNotFound) {
			log.Fatal(err)
		}
		n, _ := strconv.Atoi(string(kv.Value))
		// The revision of a key that does not exist is 0: then it is created.
		_, err = c.Put(ctx, "visits", []byte(strconv.Itoa(n+1)), client.IfRevision(kv.ModRevision))
		if errors.Is(err, client.ErrConditionFailed) {
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		return
	}
}

// Find out what became of a write whose answer did not come in time.
func ExampleOutcomeUnknownError_Settle() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = c.Put(ctx, "order/17", []byte("paid"), client.CreateOnly())

	var unknown *client.OutcomeUnknownError
	if errors.As(err, &unknown) {
		settled, err := unknown.Settle(context.Background())
		switch {
		case err != nil:
			log.Fatal(err) // not to be found out now: try again later
		case !settled.Executed:
			fmt.Println("not written, and never will be")
		case settled.Err != nil:
			fmt.Println("refused:", settled.Err)
		default:
			fmt.Println("written at revision", settled.Revision)
		}
	}
}

// Go through all keys below a prefix, in order, however many there are.
func ExampleClient_Range() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for kv, err := range c.Range(context.Background(), client.Prefix("order/"), client.KeysOnly()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(kv.Key)
	}
}

// Hand out a long range page by page, as a web service does.
func ExampleClient_RangePage() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	token := ""
	for {
		page, err := c.RangePage(context.Background(), client.Prefix("order/"), client.Limit(100), client.PageToken(token))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(page.KVs), "keys")
		if token = page.NextToken; token == "" {
			return
		}
	}
}

// Delete everything below a prefix, and say how much that was.
func ExampleClient_DeletePrefix() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	res, err := c.DeletePrefix(context.Background(), "session/")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Deleted, "keys deleted")
}

// Read from any replica, near and without asking the leader.
func ExampleStale() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	res, err := c.GetWithInfo(context.Background(), "greeting", client.Stale())
	if err != nil {
		log.Fatal(err)
	}
	if res.Found {
		fmt.Printf("%s, at most %s old\n", res.KV.Value, res.Staleness)
	}
}

// A condition that is not met tells what the key is at.
func ExampleConditionError() {
	err := error(&client.Error{Op: "put", Key: "k", Err: &client.ConditionError{Revision: 42}})
	var cond *client.ConditionError
	if errors.As(err, &cond) {
		fmt.Println(errors.Is(err, client.ErrConditionFailed), cond.Revision)
	}
	fmt.Println(err)
	// Output:
	// true 42
	// put "k": condition not met: the key is at revision 42
}

// Keep a copy of a configuration: what is there, then each change of it.
func ExampleClient_Watch() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	config := make(map[string]string)
	for update, err := range c.Watch(context.Background(), client.Prefix("config/"), client.Initial()) {
		if err != nil {
			log.Fatal(err)
		}
		for _, e := range update.Events {
			if e.Deleted {
				delete(config, e.KV.Key)
			} else {
				config[e.KV.Key] = string(e.KV.Value)
			}
		}
		fmt.Println(len(config), "settings as of", update.Revision)
	}
}

// Move money between two accounts, unless one of them has changed meanwhile.
func ExampleClient_Txn() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	// The common {tag} puts them into one shard.
	const from, to = "account/{bank}/alice", "account/{bank}/bob"
	accounts, err := c.GetMany(ctx, []string{from, to})
	if err != nil {
		log.Fatal(err)
	}
	balance := func(key string) int {
		n, _ := strconv.Atoi(string(accounts.KVs[key].Value))
		return n
	}
	res, err := c.Txn(ctx, client.Txn{
		If: []client.Compare{
			client.IfModRevision(from, client.Equal, accounts.KVs[from].ModRevision),
			client.IfModRevision(to, client.Equal, accounts.KVs[to].ModRevision),
		},
		Then: []client.Op{
			client.OpPut(from, []byte(strconv.Itoa(balance(from)-10))),
			client.OpPut(to, []byte(strconv.Itoa(balance(to)+10))),
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("moved:", res.Succeeded)
}

// The same, where the client compares what was read, and runs the function again if it
// has changed.
func ExampleClient_Transact() {
	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:7400"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	const from, to = "account/{bank}/alice", "account/{bank}/bob"
	errTooLittle := errors.New("there is too little on the account")
	_, err = c.Transact(context.Background(), func(tx *client.Tx) error {
		balance := func(key string) (int, error) {
			kv, err := tx.Get(key)
			if errors.Is(err, client.ErrNotFound) {
				return 0, nil
			}
			n, _ := strconv.Atoi(string(kv.Value))
			return n, err
		}
		a, err := balance(from)
		if err != nil {
			return err
		}
		b, err := balance(to)
		if err != nil {
			return err
		}
		if a < 10 {
			return errTooLittle // nothing is written
		}
		return errors.Join(tx.Put(from, []byte(strconv.Itoa(a-10))), tx.Put(to, []byte(strconv.Itoa(b+10))))
	})
	if errors.Is(err, errTooLittle) {
		fmt.Println(err)
	} else if err != nil {
		log.Fatal(err)
	}
}
