// Package golden keeps what older versions wrote, so that newer ones are held to
// reading it. A golden file is written once, by the version that first writes its
// format, and never again: a new format gets a new file, beside the old ones.
package golden

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeEnv set to "write" makes the golden files that are missing.
const writeEnv = "GOLDEN"

// packed files are compressed: data files are mostly zeros.
const packed = ".gz"

// File returns what is in testdata/name, uncompressed if that ends in ".gz". If
// there is no such file it is made by create when GOLDEN=write is set; else the
// test fails. A file that is there is never written.
func File(t testing.TB, name string, create func() []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		return unpack(t, name, data)
	case !errors.Is(err, fs.ErrNotExist):
		t.Fatal(err)
	case os.Getenv(writeEnv) != "write":
		t.Fatalf("there is no %s: if this version is the first to write this format, make it with %s=write and commit it", path, writeEnv)
	}
	data = create()
	write(t, path, pack(t, name, data))
	t.Logf("made %s", path)
	return data
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func pack(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	if !strings.HasSuffix(name, packed) {
		return data
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpack(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	if !strings.HasSuffix(name, packed) {
		return data
	}
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// Same fails the test if got is not what the text file testdata/name has, which
// is made like any golden file.
func Same(t testing.TB, name, got string) {
	t.Helper()
	want := string(File(t, name, func() []byte { return []byte(got) }))
	if got == want {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i, line := range wantLines {
		if i >= len(gotLines) || gotLines[i] != line {
			t.Fatalf("line %d of %s is not what is read:\n got %q\nwant %q", i+1, name, append(gotLines, "(nothing)")[min(i, len(gotLines))], line)
		}
	}
	t.Fatalf("more is read than %s has: %q", name, gotLines[len(wantLines)])
}
