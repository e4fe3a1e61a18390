// Package store is the storage engine of one replica: versions of keys, with
// their history, in memory and in one bbolt file.
//
// The Raft log is the write-ahead log. What the state machine applies goes to
// a memtable, and from time to time all of a memtable goes to the file in one
// transaction, the checkpoint, with the applied index beside it. After a crash
// the log gives again what came after the last checkpoint. So applying never
// waits for a disk, and the file is always the state at one entry of the log.
//
// # Reading the source
//
//   - batch.go: the write side, one Raft entry at a time.
//   - memtable.go: what has been applied and not yet checkpointed.
//   - record.go, block.go, histblock.go, chgblock.go, state.go: what stands in
//     the file, to the byte.
//   - checkpoint.go, checkpointwriter.go, chgwriter.go: from memory to the file.
//   - read.go, filereader.go, merge.go, scan.go: reads at a revision from both.
//   - file.go: bbolt's handle, the pool of read transactions, damaged files.
//   - snapshot.go, install.go, rewrite.go, discard.go: files that move and are replaced.
//   - check.go, checkblocks.go: what must hold of a file, as code.
//   - budget.go, account.go: the bounds on memory.
//   - pace.go: how background work gives way.
//
// # The file
//
// `cur` holds the live keys, so that a scan never steps over the dead. `hist`
// holds superseded versions and tombstones, in one bucket per segment of about
// a minute: a version is in the segment of the revision that superseded it, a
// tombstone in the segment of its own. `chg` holds, in segments too, what
// happened in revision order. Compaction drops whole segments.
//
// A value of `hist` or `chg` is a block of up to about 4 KiB: what one
// checkpoint has superseded of one key, or a run of changes. To bbolt a small
// value costs as much as a large one. A change may belong between older ones,
// and then goes into their block; a block of versions is never written again.
//
// # Invariants
//
//  1. The file's state is exactly the state at its applied index.
//  2. At most one memtable is frozen; what is older than it is in the file.
//  3. A reader loads the published state, then the view, then begins its read
//     transaction. Whatever the state tells of is then in the view's memtables
//     or in the transaction, and what is newer is told by its revision.
//  4. In memory a reader sees no version of a batch that was not committed
//     when it loaded the state.
//  5. The version that was alive at T is in `cur`, or was superseded after T
//     and is in a segment at or after T's.
//  6. A data file is replaced only by renaming another, whole and synced, over
//     it; the applied index never goes back.
//  7. After the first error of a disk, or the first record that is not what
//     was written, the store answers nothing but ErrFailed.
package store
