// Package raftlog is the Raft log and stable state of the shards of a node:
// a Factory hands out one Log per shard, which is raft's LogStore and
// StableStore. Beneath lies one raft-boltdb file per shard, or one log for all of
// them (package nodelog); above it a cache of the newest entries, so that
// replication does not read them back.
//
// A Log answers to more than raft asks for:
//
//   - The log is contiguous. What a snapshot has made useless is dropped when
//     the snapshot is noted (SetSnapshot), not left below a hole.
//   - The vote is one record, so that a crash cannot leave the term of one vote
//     beside the candidate of another (hashicorp/raft #661).
//   - After a failed write nothing is written any more, since raft goes on with
//     a wrong idea of its log after one (see Log.SetUint64 and Log.GetLog).
//   - Stalled tells of a disk that hangs, which heartbeats would hide.
package raftlog
