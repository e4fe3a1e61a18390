// Package shard runs a node's replicas: one Raft group for each shard that the
// cluster map places here, and the meta shard (shard 0), which holds the map.
//
// Writes go through a shard's proposer, which gathers what waits into one log
// entry; reads prove leadership in rounds that they share. Node ties replicas
// to what they have in common: the data directory, the peer listener, the
// clock and the map.
//
// Reading the source: node.go is the frame; replica.go is one Raft group, and
// engine.go the raft.Raft object in it; leadership.go says when a replica
// serves; proposer.go and queue.go are the write path, reader.go the read path;
// meta.go, register.go and clustermap.go keep the map; balance.go spreads the
// leaders.
package shard
