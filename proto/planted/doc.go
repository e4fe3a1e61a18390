// Package planted lets the code have bugs on purpose, for one question: does
// the test suite find them? Where a line keeps a promise, it may be left out if
// its bug is planted:
//
//	if verdict == dedupe.Found && !planted.Bug(planted.RetryExecutedAgain) {
//
// Without the build tag planted, Bug is false and the compiler drops all of it;
// with the tag the environment variable KVD_PLANTED_BUG names the one bug to
// have. `make planted-bugs` has each in turn. The package lies at the bottom, as
// any other may have a bug.
package planted

// Name of a bug.
type Name string

// Bugs of reads.
const (
	// ReadWithoutProof: a leader answers reads without asking whether it has been
	// deposed.
	ReadWithoutProof Name = "read-without-proof"
	// MinorityProof: a read's proof of leadership takes one voter too few.
	MinorityProof Name = "minority-proof"
	// NonVoterCounted: a read's proof of leadership takes nodes without a vote for voters.
	NonVoterCounted Name = "non-voter-counted"
	// ReadByLease: a proof of leadership serves later reads, for seconds.
	ReadByLease Name = "read-by-lease"
	// ReadBeforeOwnEntry: a new leader serves reads before it has applied an entry
	// of its own term.
	ReadBeforeOwnEntry Name = "read-before-own-entry"
	// FreshnessOverstated: a stale read says that it is not old at all.
	FreshnessOverstated Name = "freshness-overstated"
	// FreshSinceHeard: a follower counts its age from when it heard of a commit
	// index, not from when its leader was last proved to lead.
	FreshSinceHeard Name = "fresh-since-heard"
	// BoundForgotten: a new leader begins below what its predecessor has promised to
	// readers.
	BoundForgotten Name = "bound-forgotten"
	// PinWithoutWait: a pin does not wait for the entries on their way.
	PinWithoutWait Name = "pin-without-wait"
	// LevelWithOldCommit: a follower takes itself for level with a leader though
	// it has not applied what that had committed.
	LevelWithOldCommit Name = "level-with-old-commit"
)

// Bugs of exactly-once.
const (
	// RetryExecutedAgain: the record of an earlier attempt is not looked at.
	RetryExecutedAgain Name = "retry-executed-again"
	// DuplicateBelowAcked: what the client said it would never send again is
	// executed when it arrives.
	DuplicateBelowAcked Name = "duplicate-below-acked"
	// ExpiredExecuted: an attempt below the dedupe floor is executed.
	ExpiredExecuted Name = "expired-executed"
	// VoidForgotten: an attempt that was settled as void is not remembered.
	VoidForgotten Name = "void-forgotten"
	// SettledAsVoid: settling says void of an attempt that was executed.
	SettledAsVoid Name = "settled-as-void"
	// NewIdentity: the client sends a write again as a new one.
	NewIdentity Name = "new-identity"
	// UnknownAsFailed: the client says of a write that may be executed that it
	// failed.
	UnknownAsFailed Name = "unknown-as-failed"
)

// Bugs of the log and the state machine.
const (
	// ReplyBeforeSync: the log does not wait until an entry is on the disk.
	ReplyBeforeSync Name = "reply-before-sync"
	// WriteErrorIgnored: the log goes on when the disk has failed.
	WriteErrorIgnored Name = "write-error-ignored"
	// OldTermExecuted: an entry of an earlier term is not void.
	OldTermExecuted Name = "old-term-executed"
	// RevisionGoesBack: a leader begins below what was issued before it, and the
	// state machine takes it.
	RevisionGoesBack Name = "revision-goes-back"
	// ConditionIgnored: a write that is to replace one version replaces any.
	ConditionIgnored Name = "condition-ignored"
	// CompareIgnored: the compares of a transaction hold whatever there is.
	CompareIgnored Name = "compare-ignored"
	// TxnCutShort: of several writes of a transaction, the last is left out.
	TxnCutShort Name = "txn-cut-short"
	// SnapshotLosesMemtable: a snapshot says that it holds what is only in memory.
	SnapshotLosesMemtable Name = "snapshot-loses-memtable"
)

// Bugs of transactions of several shards.
const (
	// IntentsUnread: readers do not wait for what is prepared.
	IntentsUnread Name = "intents-unread"
	// LocksIgnored: what is prepared is in nobody's way.
	LocksIgnored Name = "locks-ignored"
	// OrphanAdmitted: an attempt that is over can be prepared.
	OrphanAdmitted Name = "orphan-admitted"
	// DecisionLost: the deciding shard does not remember what it has decided.
	DecisionLost Name = "decision-lost"
	// RunningTakenForAborted: who asks of a transaction that is not decided yet is told
	// that it never will be.
	RunningTakenForAborted Name = "running-taken-for-aborted"
	// PhantomsAdmitted: what is new in a range that a transaction has read is not seen.
	PhantomsAdmitted Name = "phantoms-admitted"
	// WatchPastIntents: a watch is told of more than what can no longer be written below.
	WatchPastIntents Name = "watch-past-intents"
)

// Bugs of the store.
const (
	// DedupeNotCheckpointed: the records for exactly-once do not go into the file.
	DedupeNotCheckpointed Name = "dedupe-not-checkpointed"
	// DedupeLostAtInstall: an installed snapshot brings no such records.
	DedupeLostAtInstall Name = "dedupe-lost-at-install"
	// IndexAheadOfData: a checkpoint says that it holds an entry more than it does.
	IndexAheadOfData Name = "index-ahead-of-data"
	// DeletedKeyReturns: a key that was deleted stays in the file.
	DeletedKeyReturns Name = "deleted-key-returns"
	// HistoryLost: a version that a checkpoint finds superseded is dropped.
	HistoryLost Name = "history-lost"
	// DamageIgnored: a record is taken for good whatever its checksum says.
	DamageIgnored Name = "damage-ignored"
)

// Bugs of the clock and the client.
const (
	// ToldTooMuch: clients are told of revisions that no log has yet.
	ToldTooMuch Name = "told-too-much"
	// ConfirmLeftOut: a read of several shards does not ask whether what it has seen
	// was all of one instant.
	ConfirmLeftOut Name = "confirm-left-out"
	// AnswerOfThePresent: the answer to a transaction that is sent again tells what there
	// is, not what there was.
	AnswerOfThePresent Name = "answer-of-the-present"
	// WatchResumedLate: a watch that goes on at another node leaves out a second.
	WatchResumedLate Name = "watch-resumed-late"
	// WatchWithoutPin: a shard that has nothing to tell a watch takes that for a promise.
	WatchWithoutPin Name = "watch-without-pin"
	// RangeCutOff: a range whose context ends looks like a whole one.
	RangeCutOff Name = "range-cut-off"
)

// All is every bug.
var All = []Name{
	ReadWithoutProof, MinorityProof, NonVoterCounted, ReadByLease, ReadBeforeOwnEntry,
	FreshnessOverstated, FreshSinceHeard, LevelWithOldCommit,
	BoundForgotten, PinWithoutWait,
	RetryExecutedAgain, DuplicateBelowAcked, ExpiredExecuted, VoidForgotten, SettledAsVoid,
	NewIdentity, UnknownAsFailed,
	ReplyBeforeSync, WriteErrorIgnored, OldTermExecuted, RevisionGoesBack, ConditionIgnored, CompareIgnored, TxnCutShort,
	SnapshotLosesMemtable,
	IntentsUnread, LocksIgnored, OrphanAdmitted, DecisionLost, RunningTakenForAborted, WatchPastIntents, PhantomsAdmitted,
	DedupeNotCheckpointed, DedupeLostAtInstall, IndexAheadOfData, DeletedKeyReturns, HistoryLost, DamageIgnored,
	ToldTooMuch, RangeCutOff, ConfirmLeftOut, AnswerOfThePresent,
	WatchResumedLate, WatchWithoutPin,
}
