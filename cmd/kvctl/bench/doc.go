// Package bench generates load for a key-value store and measures how it is
// answered. It drives whatever satisfies Target, so the same generator serves
// kvctl bench and the comparison with other systems in test/bench.
//
// The generator is made to cost little, because it usually shares the machine
// with what it measures: keys and values are computed before the run, a draw
// from the zipf distribution is one multiplication and one power, latencies go
// through a small buffer into one histogram, and the context of an operation is
// shared by all operations that a client begins within a second.
package bench
