package store

import "runtime"

// A read of a file that is not in memory waits for the disk with a processor of Go's
// runtime in hand. Where all processors do, whatever else could run, be it a heartbeat,
// stands in line behind reads that could. So readers take turns: some processors are
// left for the rest.
const (
	sparedProcs = 2
	leastReads  = 2
)

// fileReads is how many reads of files there may be at once.
func fileReads() int { return max(leastReads, runtime.GOMAXPROCS(0)-sparedProcs) }

// borrow is f.acquire for those who read, in their turn: each is short (see
// maxPageSteps), and nobody waits for anything else in it.
func (s *Store) borrow(f *file) (*fileReader, error) {
	turns := s.config.Budget.turns
	turns <- struct{}{}
	r, err := f.acquire()
	if err != nil {
		<-turns
	}
	return r, err
}

// giveBack undoes borrow.
func (s *Store) giveBack(f *file, r *fileReader) {
	f.release(r)
	<-s.config.Budget.turns
}
