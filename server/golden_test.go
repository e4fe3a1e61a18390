package server_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/test/golden"
)

// goldenWrites are what the golden directory was written with, in order.
var goldenWrites = []struct{ key, value string }{
	{"a", "1"}, {"b", "1"}, {"a", "2"}, {"{tag}c", strings.Repeat("long ", 300)}, {"empty", ""}, {"a", "3"},
}

// goldenAttempt is the attempt of the last of them.
func goldenAttempt(put *kvdpb.PutRequest) *kvdpb.PutRequest {
	put.Attempt = &kvdpb.Attempt{ClientId: 77, Seq: 5, FirstRev: 1}
	return put
}

// TestGoldenDirectory opens the data directory of a node that an older version
// has written, and finds all that was acknowledged. The older version was killed:
// some is in the data files, the rest in the log alone.
func TestGoldenDirectory(t *testing.T) {
	const name = "n1"
	// The number is that of the store's data files.
	data := golden.File(t, "directory-2.tar.gz", func() []byte { return makeGolden(t, name) })
	c := layCluster(t, 1)
	unpackDirectory(t, data, filepath.Join(c.dir, name))
	c.start(name)
	c.waitReady()
	kv := c.kv(name)
	versions, revisions := map[string]uint64{}, []uint64{}
	last := map[string]string{}
	for _, w := range goldenWrites {
		versions[w.key]++
		last[w.key] = w.value
	}
	for key, value := range last {
		resp, err := kv.Get(within(t), getReq(key))
		if err != nil || string(resp.Kv.GetValue()) != value || resp.Kv.GetVersion() != versions[key] {
			t.Errorf("key %q is %.20q of version %d, %v, want %.20q of version %d",
				key, resp.GetKv().GetValue(), resp.GetKv().GetVersion(), err, value, versions[key])
		}
	}
	if resp, err := kv.Get(within(t), getReq("deleted")); err != nil || resp.Kv != nil {
		t.Errorf("the deleted key is %v, %v", resp, err)
	}
	final := goldenWrites[len(goldenWrites)-1]
	resp, err := kv.Get(within(t), getReq(final.key))
	if err != nil {
		t.Fatal(err)
	}
	for rev := resp.Kv.ModRevision; rev != 0; { // its history
		req := getReq(final.key)
		req.Op.Revision = rev
		resp, err := kv.Get(within(t), req)
		if err != nil || resp.Kv == nil {
			t.Fatalf("%q at %d is %v, %v", final.key, rev, resp, err)
		}
		revisions = append(revisions, resp.Kv.ModRevision)
		if rev = resp.Kv.ModRevision - 1; resp.Kv.Version == 1 {
			break
		}
	}
	if uint64(len(revisions)) != versions[final.key] {
		t.Errorf("%q has the history %v, want %d versions", final.key, revisions, versions[final.key])
	}
	again, err := kv.Put(within(t), goldenAttempt(putReq(final.key, final.value)))
	if err != nil || again.Revision != revisions[0] {
		t.Errorf("the last write, sent again, is at %v, %v, want what it was, %d", again, err, revisions[0])
	}
	if _, err := kv.Put(within(t), putReq("new", "1")); err != nil {
		t.Error(err)
	}
}

// makeGolden runs a node, writes, copies its directory while it runs, as a crash
// would leave it, and returns that as an archive.
func makeGolden(t *testing.T, name string) []byte {
	t.Helper()
	c := startCluster(t, 1)
	kv := c.kv(name)
	put := func(req *kvdpb.PutRequest) {
		if _, err := kv.Put(within(t), req); err != nil {
			t.Fatal(err)
		}
	}
	put(putReq("deleted", "1"))
	if _, err := kv.Delete(within(t), &kvdpb.DeleteRequest{Op: &kvdpb.DeleteOp{Key: []byte("deleted")}}); err != nil {
		t.Fatal(err)
	}
	half := len(goldenWrites) / 2
	for i, w := range goldenWrites {
		if i == half { // what comes before is checkpointed
			c.stop(name)
			c.start(name)
			c.waitReady()
			kv = c.kv(name)
		}
		req := putReq(w.key, w.value)
		if i == len(goldenWrites)-1 {
			req = goldenAttempt(req)
		}
		put(req)
	}
	return packDirectory(t, filepath.Join(c.dir, name))
}

// packDirectory archives the files of a data directory, those of bbolt without
// what lies beyond their last page.
func packDirectory(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".db") {
			data = data[:boltBytes(t, data)]
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(rel), Mode: 0o600, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// boltBytes returns how long a bbolt file has to be, by way of a copy: a running
// node has locked the file.
func boltBytes(t *testing.T, data []byte) (size int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	return size
}

func unpackDirectory(t *testing.T, data []byte, dir string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
