package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/test/cluster"
)

func testTxn(t *testing.T, k *kvctl, _ *cluster.Cluster) {
	const create = `{"if":[{"key":"{txn}a","version":0}],"then":[{"put":{"key":"{txn}a","value":"1"}}],"else":[{"get":{"key":"{txn}a"}}]}`
	feed := func(in string, args ...string) answer {
		t.Helper()
		return k.feed(t, strings.NewReader(in), append([]string{"txn"}, args...)...)
	}
	did := feed(create, "-f", "-", "-o", "json")
	did.want(t, statusDone)
	out := wantFields(t, decode(t, did.stdout), "succeeded:bool", "revision:number", "results:list")
	same(t, "succeeded", out["succeeded"], any(true))
	wantFields(t, wantFields(t, list(t, out["results"])[0], "put:object")["put"])

	again := feed(create, "-f", "-", "-o", "json")
	again.want(t, statusCondition, "a compare did not hold", "repeat it")
	out = decode(t, again.stdout)
	same(t, "succeeded", out["succeeded"], any(false))
	kv := wantFields(t, wantFields(t, wantFields(t, list(t, out["results"])[0], "get:object")["get"], "kv:object")["kv"], keyFields...)
	same(t, "text", kv["text"], any("1"))
	first := fmt.Sprint(kv["mod_revision"])

	text := "mod(\"{txn}a\") = " + first + "\nvalue(`{txn}a`) = \"1\"\n\nput {txn}b \"two words\"\ndel {txn}a\nget --prefix {txn}\n\nget {txn}b\n"
	feed(text).want(t, statusDone)
	same(t, "b", k.ok(t, "get", "{txn}b"), "two words")
	feed(text).want(t, statusCondition)

	file := filepath.Join(t.TempDir(), "txn.yaml")
	if err := os.WriteFile(file, []byte(`
if:
  - {prefix: "{txn}", none_newer: 9007199254740991, count: 1}
  - {key_base64: `+b64("{txn}b")+`, op: "!=", value_base64: `+b64("\xff")+`}
then:
  - put: {key: "{txn}c", value_base64: `+b64("\xff")+`}
  - put: {key: "{txn}b", value: 3, prev: true}
  - delete: {prefix: "{txn}c/"}
  - range: {prefix: "{txn}", keys_only: true, limit: 1}
  - range: {prefix: "{txn}", end: "{txn}z", count_only: true}
  - delete: {key: "{txn}none", prev: true}
  - get: {key: "{txn}none"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	printed := k.ok(t, "txn", "-f", file)
	_, rest, _ := strings.Cut(printed, "\n")
	same(t, "what it did", rest, "put\nput\n{txn}b\ttwo words\ndeleted 0\n{txn}b\nthere are more keys\ncount 2\ndeleted 0\nno such key\n")
	if !strings.HasPrefix(printed, "succeeded, revision ") {
		t.Errorf("it begins with %q", printed)
	}

	for says, in := range map[string]string{
		"unknown field":               `{"then":[{"put":{"key":"a","vale":"1"}}]}`,
		"after the transaction":       create + create,
		"operation 1 of then":         `then: [{put: {key: a}}]`,
		"compare 1":                   `if: [{key: a}]`,
		`op "=="`:                     `if: [{key: a, op: "==", version: 1}]`,
		"operation 2 of else":         `else: [{get: {key: a}}, {delete: {}}]`,
		"is one of put":               `then: [{}]`,
		"value_base64":                `then: [{put: {key: a, value_base64: "?"}}]`,
		"contradict each other":       `then: [{get: {key: a, key_base64: YQ==}}]`,
		"goes with prefix":            `if: [{prefix: a, none_newer: 1, version: 3}]`,
		"contradicts limit":           `then: [{range: {prefix: a, count_only: true, limit: 3}}]`,
		"the transaction is empty":    ``,
		"the transaction cannot be r": `- 5`,
	} {
		feed(in, "-f", "-").want(t, statusUsage, says)
	}
	for says, in := range map[string]string{
		"line 1: a compare is": "mod(\"a\" > 7\n",
		"not a number":         "mod(a) > x\n",
		"line 3: an operation": "\n\nput a\n",
		"quote does not end":   "\nput \"a 1\n",
	} {
		feed(in).want(t, statusUsage, says)
	}
	feed("").want(t, statusFailed, "empty")
	feed("\nput {txn}x 1\nput {txn}x 2\n").want(t, statusFailed, "write the same key")
	k.run(t, "txn", "x").want(t, statusUsage)
	feed("mod(a) > 0\n").want(t, statusUsage, "ends among the compares")

	// Keys of several shards, and what is under way of such: nothing, after a moment.
	const several = `{"if":[{"prefix":"txns/","none_newer":0}],
		"then":[{"put":{"key":"txns/a","value":"1"}},{"put":{"key":"txns/b","value":"2"}},{"put":{"key":"txns/c","value":"3"}},{"range":{"prefix":"txns/"}}],
		"else":[{"delete":{"prefix":"txns/"}}]}`
	printed = feedOK(t, feed(several, "-f", "-"))
	_, rest, _ = strings.Cut(printed, "\n")
	same(t, "what it did", rest, "put\nput\nput\ntxns/a\t1\ntxns/b\t2\ntxns/c\t3\n")
	undone := feed(several, "-f", "-", "-o", "json")
	undone.want(t, statusCondition)
	out = decode(t, undone.stdout)
	same(t, "deleted", wantFields(t, wantFields(t, list(t, out["results"])[0], "delete:object")["delete"], "deleted:number")["deleted"], any(3))

	eventually(t, func() bool { return k.ok(t, "txn", "list") == "no transaction of several shards is under way\n" })
	wantFields(t, k.json(t, "txn", "list"), "txns:list")
	same(t, "resolve", k.ok(t, "txn", "resolve"), "nothing is prepared\n")
	wantFields(t, k.json(t, "txn", "resolve"), "txns:list")
	k.run(t, "txn", "resolve", "1-1-1-1").want(t, statusNothingThere, "it is over")
	k.run(t, "txn", "resolve", "1-1-1").want(t, statusFailed, "is no transaction id")
	k.run(t, "txn", "list", "x").want(t, statusUsage)
}

// feedOK returns what a call has printed that must have been done.
func feedOK(t *testing.T, a answer) string {
	t.Helper()
	a.want(t, statusDone)
	return a.stdout
}

// eventually waits until something is so.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
	}
}
