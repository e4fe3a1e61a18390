// Package revision reads and makes revisions: the 64-bit hybrid logical times
// that order all writes.
//
// A revision is the number of milliseconds since 2020-01-01 UTC, shifted left
// by 12 bits, plus a counter. It stays below 2^53 until 2089, so that JSON and
// JavaScript carry it exactly. The scheme follows Kulkarni et al., "Logical
// Physical Clocks" (2014).
package revision

import "time"

// CounterBits is the number of low bits that count within a millisecond.
const CounterBits = 12

// epochMillis is 2020-01-01 UTC in Unix milliseconds.
const epochMillis = 1577836800000

// FromTime returns the first revision of t's millisecond; 0 for times before
// 2020.
func FromTime(t time.Time) uint64 {
	ms := t.UnixMilli() - epochMillis
	if ms < 0 {
		return 0
	}
	return uint64(ms) << CounterBits
}

// Time returns the wall-clock time of rev, to the millisecond.
func Time(rev uint64) time.Time {
	return time.UnixMilli(int64(rev>>CounterBits) + epochMillis).UTC()
}

// FromDuration returns how far apart two revisions d apart in time are.
func FromDuration(d time.Duration) uint64 {
	if d < 0 {
		return 0
	}
	return uint64(d.Milliseconds()) << CounterBits
}
