package server

import "time"

// Limits of what a client may ask for, checked at the door.
const (
	// MaxKeyBytes is the longest key.
	MaxKeyBytes = 4 << 10
	// MaxValueBytes is the longest value.
	MaxValueBytes = 1 << 20
	// MaxBatchOps is the most operations in one message of a Batch stream.
	MaxBatchOps = 4096
	// MaxBatchBytes is the most bytes of keys and values in one message of a
	// Batch stream, and of values in its answer.
	MaxBatchBytes = 4 << 20
	// MaxDeleteRange is the most keys that one DeleteRange deletes.
	MaxDeleteRange = 1000
	// MaxTxnOps is the most compares and operations of a transaction, in both branches.
	MaxTxnOps = 10_000
	// MaxTxnRanges is how many of them may be of ranges: what lies in a range and is
	// deleted already costs time, and is not among the keys that are counted.
	MaxTxnRanges = 256
	// MaxTxnBytes is the most bytes of keys and values in a transaction, and in its
	// answer.
	MaxTxnBytes = 8 << 20
	// MaxMessageBytes is the longest gRPC message; what the limits above allow
	// always fits.
	MaxMessageBytes = 16 << 20
)

// Bounds of what a node takes on at a time.
const (
	// streamWindow is how many messages of one Batch stream are worked on at a
	// time; then the stream is not read, which slows the client down.
	streamWindow = 128
	// maxInFlightBytes bounds keys and values of all requests in the node;
	// beyond it requests are answered as overloaded.
	maxInFlightBytes = 256 << 20
	// overloadRetry is the hint that goes with such an answer.
	overloadRetry = 50 * time.Millisecond
	// maxConcurrentStreams is per connection: unary calls and streams.
	maxConcurrentStreams = 16384
	// maxRanges is how many Range and Digest calls run at a time; each holds one
	// page.
	maxRanges = 64
	// rangePageBytes is the size at which a page of a range is cut.
	rangePageBytes = 512 << 10
	// maxStreamWatches is per Watch stream.
	maxStreamWatches = 100_000
	// feedEvents and feedBytes are where a message of events is cut; it holds what
	// has one revision, however much that is.
	feedEvents = 1000
	feedBytes  = 256 << 10

	// maxFeedMessage is where a message is cut that got longer all the same: by the
	// numbers of the watches, of watchIDBytes at most each, or by what one revision has.
	maxFeedMessage = 4 << 20
	watchIDBytes   = 10

	// groupBytes is where the writes of one message are cut into several log
	// entries: larger entries delay the small ones behind them.
	groupBytes = 256 << 10
)

// Times that a request may take.
const (
	// defaultTimeout is for requests without a deadline of their own.
	defaultTimeout = 10 * time.Second
	// maxTimeout caps deadlines, so that nothing waits for ever.
	maxTimeout = 60 * time.Second
)
