// Package server is a kvd node: the shards of package shard behind a gRPC port
// for clients and an HTTP port for operators.
//
// [Open] starts a node from a [Config], which holds everything that the node
// takes from its surroundings (listeners, dialer, wall clock, files, metrics
// registry, logger), so that many nodes can live in one process and in virtual
// time. Protobuf API messages are converted here and nowhere below.
package server
