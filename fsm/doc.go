// Package fsm is the state machine of a shard: it decodes the entries of the
// shard's Raft log and applies them to the store.
//
// It is pure. What an entry does depends on the entry and on the entries before
// it alone, so that every replica comes to the same state: nothing here asks
// for the time, draws random numbers or walks a map. Outcomes that depend on
// the state (a failed condition, a slot that is not owned, an expired attempt)
// are decided here, when the entry applies, and nowhere else.
//
// An entry has one of three fates:
//
//   - applied: its commands are executed in order, command i at revision base+i;
//   - void, whole: its proposer's term is not the term it was logged in, or its
//     base is not above the last applied revision. It is as if it had never been
//     proposed, and its proposer proposes the commands again;
//   - not understood: damaged, or from a newer version. The replica stops before
//     it, since going on would make it differ from the others.
package fsm
