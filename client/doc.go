// Package client is the Go client of kvd.
//
// A Client learns all nodes, slots and leaders from any one endpoint, sends
// each operation to the leader of the key's shard, follows leaders and maps as
// they change, and sends again after failures until the context's deadline.
// Sending again is safe: every write carries an identity that all its attempts
// share, and the cluster executes it at most once. When the deadline passes
// while a write may have reached the cluster, the error is an
// *OutcomeUnknownError, whose Settle method finds out what became of it.
//
// Operations that run at the same time are grouped: those for one shard travel
// in one message on a stream that is kept open to each node. An operation that
// finds the stream idle is sent at once; grouping never waits for company.
// So many goroutines that share one Client are served far better than many
// Clients with one goroutine each.
//
// A context without a deadline is given Config.Timeout.
//
// A Range, Count or GetMany is of one instant over all shards, which lies between
// call and answer. A DeleteRange deletes in pieces, each on one shard. Keys that
// share a {tag} lie on one shard, and a range over a prefix that holds a whole {tag}
// asks that shard alone.
//
// A Watch tells of the changes of keys, over all shards, in the order of their
// revisions. All watches of a Client share a stream to each node.
//
// All methods are safe for concurrent use.
package client
