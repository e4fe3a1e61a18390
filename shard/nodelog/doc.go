// Package nodelog is one log for all Raft groups of a node: their entries, and their
// stable state (term, vote and the like), in the order in which they are stored. What
// several groups want to store at a time goes out in one write and one fdatasync, so that
// a node with many groups syncs as often as one with few.
//
// The log is a row of segments, files of some size that are only appended to. A record
// belongs to one group: entries, a value of its stable state, that a prefix or a suffix of
// its entries is gone, or that all of it is. Where each group's entries lie is known in
// memory. Each segment begins with the stable state of all groups, so that the oldest can
// go once none of its entries is needed any more. A group that keeps the oldest, because
// it is slow or idle, has what it has there written again at the end (see clean).
//
// What a crash leaves is decided by records that say how much of their segment was on the
// disk before they were written. The end of the last segment may be torn: what cannot be
// read there was never acknowledged, and is cut off. It is damage, and an error that names
// file and offset, wherever something that was written after it shows that it had been on
// the disk.
//
// After a failed write or sync the log takes nothing more: what the disk holds is not
// known then, and a later success would hide it.
package nodelog
