package raftlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kvd-io/kvd/store/vfs"
)

// Kind names what the logs of a data directory are kept in.
type Kind string

const (
	// Bolt is one raft-boltdb file per shard.
	Bolt Kind = "boltdb"
	// Node is one log for all shards of the node.
	Node Kind = "node"
)

// Kinds are all there are.
var Kinds = []Kind{Bolt, Node}

// kindFile in the data directory says which kind of logs it holds, so that a
// node started with the other kind refuses, instead of starting empty.
const kindFile = "LOG"

// kindFormat is the whole of the file: format version and kind.
const kindFormat = "kvd log 1 %s\n"

// maxKindFile bounds what is read of the file.
const maxKindFile = 256

// KindOf returns the kind of logs that the data directory holds; "" if it
// holds none yet.
func KindOf(files vfs.FS, dir string) (Kind, error) {
	path := filepath.Join(dir, kindFile)
	f, err := files.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKindFile))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	var kind Kind
	if _, err := fmt.Sscanf(string(data), kindFormat, &kind); err != nil || !strings.HasSuffix(string(data), "\n") {
		return "", fmt.Errorf("read %s: %w: it should say %q", path, ErrCorrupt, fmt.Sprintf(kindFormat, Bolt))
	}
	return kind, nil
}

// claimKind marks the directory as holding logs of the kind, or checks that it
// does. It returns the kind; "" stands for the one that it holds, or else Node.
func claimKind(files vfs.FS, dir string, want Kind) (Kind, error) {
	have, err := KindOf(files, dir)
	switch {
	case err != nil:
		return "", err
	case have == "":
		want = cmp.Or(want, Node)
		return want, writeKind(files, dir, want)
	case want != "" && have != want:
		return "", &KindError{Dir: dir, Have: have, Want: want}
	}
	return have, nil
}

// writeKind writes the file so that it is there as a whole or not at all.
func writeKind(files vfs.FS, dir string, kind Kind) (err error) {
	path := filepath.Join(dir, kindFile)
	f, err := files.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, kindFormat, kind)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = files.Rename(path+".new", path)
	}
	if err == nil {
		err = files.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
