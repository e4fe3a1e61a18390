// Package dedupe remembers what became of the operations that clients may send
// again, so that each takes effect at most once and each attempt gets the first
// one's answer.
//
// A client numbers its operations (seq) and says with every message up to which
// number it will never send again (acked). Records at or below acked go, and
// what arrives there later is refused; acked itself is kept until the floor has
// passed what it covers. The floor is a revision that the state machine raises:
// records and acks of attempts first made below it go, and such attempts are
// refused as expired. So the table stays small without ever forgetting an
// operation that could still be executed a second time.
//
// The table is part of a replica's replicated state: what it answers depends on
// the calls it got alone. It is used from one goroutine.
package dedupe
