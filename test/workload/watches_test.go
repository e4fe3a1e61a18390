package workload

import (
	"testing"

	"github.com/kvd-io/kvd/client"
	"github.com/kvd-io/kvd/test/history"
)

// TestCheckState: what there was when a watch began is what had been written until
// then.
func TestCheckState(t *testing.T) {
	put := func(key, value string, rev uint64) history.Op {
		return history.Op{Kind: history.Put, Key: key, Value: value, Revision: rev}
	}
	written := map[uint64][]history.Op{
		5: {put("{t}a", "1", 5)}, 6: {put("{t}b", "2", 6)},
		7: {{Kind: history.Delete, Key: "{t}c", Found: true, Revision: 7}}, 30: {put("{t}a", "3", 30)},
	}
	unsure := map[string][]history.Op{"{t}u": {put("{t}u", "9", 0)}}
	kv := func(key, value string, rev uint64) client.KeyValue {
		return client.KeyValue{Key: key, Value: []byte(value), ModRevision: rev}
	}
	a, b := kv("{t}a", "1", 5), kv("{t}b", "2", 6)
	for _, c := range []struct {
		name  string
		bad   bool
		state []client.KeyValue
	}{
		{"all of it", false, []client.KeyValue{a, b}},
		{"with what is not known", false, []client.KeyValue{a, b, kv("{t}u", "9", 8)}},
		{"nothing", true, nil},
		{"without one", true, []client.KeyValue{a}},
		{"another value", true, []client.KeyValue{a, kv("{t}b", "1", 6)}},
		{"an old version", true, []client.KeyValue{a, kv("{t}b", "1", 4)}},
		{"what nobody wrote", true, []client.KeyValue{a, b, kv("{t}d", "1", 9)}},
		{"what was deleted", true, []client.KeyValue{a, b, kv("{t}c", "1", 6)}},
		{"a later version", true, []client.KeyValue{kv("{t}a", "3", 30), b}},
		{"of another range", true, []client.KeyValue{a, b, kv("x", "", 3)}},
	} {
		s := span{prefix: "{t}", after: 20, upTo: 40, state: map[string]client.KeyValue{}}
		for _, kv := range c.state {
			s.state[kv.Key] = kv
		}
		if err := s.checkState(written, unsure); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
