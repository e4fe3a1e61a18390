package process

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/cluster"
)

// TestCheckConsistency: replicas are the same under load; one that cannot be
// asked is said to be so, and one whose data has been changed behind kvd's back,
// with the right checksum, is found.
func TestCheckConsistency(t *testing.T) {
	t.Parallel()
	const shards, bad = 2, 2
	c := cluster.Start(t, cluster.Options{Shards: shards})
	k := newKvctl(t, c.Endpoints()...)

	stop := load(t, c.Client())
	for range 5 {
		found := k.json(t, "check", "consistency")
		same(t, "consistent", found["consistent"], true)
		wantVerdicts(t, found, shards, map[string]string{"n1": "same", "n2": "same", "n3": "same"})
	}
	if n := stop(); n == 0 {
		t.Error("nothing was written during the checks")
	}
	const victim = "victim"
	k.ok(t, "put", victim, "right")
	if out := k.ok(t, "check", "consistency"); strings.Count(out, " same\n") != 3*(shards+1) {
		t.Errorf("check consistency in text does not call %d replicas the same:\n%s", 3*(shards+1), out)
	}

	c.Stop(bad)
	a := k.run(t, "check", "consistency", "-o", "json")
	a.want(t, statusFailed, "could not be compared", "kvctl status")
	wantVerdicts(t, decode(t, a.stdout), shards, map[string]string{"n1": "same", "n2": "same", "n3": "unreachable"})

	shard := alter(t, c.Node(bad).DataDir, shards, victim)
	c.StartNode(bad)
	c.WaitHealthy(30 * time.Second)
	k.ok(t, "check", "disk") // each record is sound: this cannot tell
	a = k.run(t, "check", "consistency", "-o", "json")
	a.want(t, statusFailed, "replicas differ", "docs/OPERATIONS.md")
	found := decode(t, a.stdout)
	same(t, "consistent", found["consistent"], false)
	for _, s := range list(t, found["shards"]) {
		s, want := s.(map[string]any), "same"
		if fmt.Sprint(s["shard"]) == fmt.Sprint(shard) {
			want = "different"
		}
		same(t, fmt.Sprintf("verdict of shard %v", s["shard"]), s["verdict"], want)
		for _, r := range list(t, s["replicas"]) {
			r, want := r.(map[string]any), want
			if r["node"] != c.Node(bad).Name {
				want = "same"
			}
			same(t, fmt.Sprintf("verdict of shard %v on %v", s["shard"], r["node"]), r["verdict"], want)
		}
	}
	a = k.run(t, "check", "consistency")
	a.want(t, statusFailed, "replicas differ")
	if want := fmt.Sprintf("shard %d on n3 is different: its data differs", shard); !strings.Contains(a.stdout, want) {
		t.Errorf("check consistency in text does not say %q:\n%s", want, a.stdout)
	}
}

// wantVerdicts checks the form of an answer, and the verdict on each node's
// replica of every shard.
func wantVerdicts(t *testing.T, found map[string]any, shards int, want map[string]string) {
	t.Helper()
	wantFields(t, found, "consistent:bool", "shards:list")
	all := list(t, found["shards"])
	same(t, "number of shards, the meta shard included", len(all), shards+1)
	for _, s := range all {
		s := wantFields(t, s, "shard:number", "revision:number", "verdict:string", "replicas:list")
		replicas := list(t, s["replicas"])
		same(t, "number of replicas", len(replicas), len(want))
		for _, r := range replicas {
			fields := []string{
				"node:string", "verdict:string", "keys:number", "data_hash:string", "state_hash:string",
				"applied:number", "applied_revision:number",
			}
			if o, _ := r.(map[string]any); o["verdict"] != "same" {
				fields = append(fields, "error:string")
			}
			r := wantFields(t, r, fields...)
			same(t, fmt.Sprintf("verdict of shard %v on %v", s["shard"], r["node"]), r["verdict"], want[text(t, r["node"])])
		}
	}
}

// load writes and deletes keys until stop is called, which returns how many.
func load(t *testing.T, cl *client.Client) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	const writers = 16
	counts := make([]int, writers)
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("load/%d/%d", w, i%100)
				var err error
				if i%10 == 9 {
					_, err = cl.Delete(ctx, key)
				} else {
					_, err = cl.Put(ctx, key, fmt.Appendf(nil, "value %d", i))
				}
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Errorf("write %s: %v", key, err)
					return
				}
				counts[w]++
			}
		})
	}
	return func() (all int) {
		cancel()
		running.Wait()
		for _, n := range counts {
			all += n
		}
		return all
	}
}

// alter changes the value of a key in the data file of a node that is stopped, as
// a defect in the state machine would: with a record that is sound in itself. It
// returns the shard that has the key.
func alter(t *testing.T, dir string, shards int, key string) int {
	t.Helper()
	for shard := 1; shard <= shards; shard++ {
		path := filepath.Join(dir, fmt.Sprintf("shard-%d", shard), "data.db")
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		err = db.Update(func(tx *bbolt.Tx) error {
			live := tx.Bucket([]byte("cur"))
			record := append([]byte(nil), live.Get([]byte(key))...)
			if len(record) == 0 {
				return nil
			}
			found = true
			// As store/record.go has it: header, CRC32C of key, header and value, value.
			const header, value = 1 + 4*8, 1 + 4*8 + 4
			record[value] ^= 1
			castagnoli := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Checksum([]byte(key), castagnoli)
			sum = crc32.Update(sum, castagnoli, record[:header])
			binary.BigEndian.PutUint32(record[header:], crc32.Update(sum, castagnoli, record[value:]))
			return live.Put([]byte(key), record)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if found {
			return shard
		}
	}
	t.Fatalf("no shard of %s has key %q", dir, key)
	return 0
}
