package hlc

import (
	"fmt"
	"time"

	"github.com/kvd-io/kvd/proto/revision"
)

// AheadError refuses a revision that no shard is known to have issued and that
// is further ahead of the time than clocks may differ.
type AheadError struct {
	Revision uint64 // refused
	Limit    uint64 // highest revision that would have been accepted
}

func (e *AheadError) Error() string {
	ahead := revision.Time(e.Revision).Sub(revision.Time(e.Limit)).Round(time.Millisecond)
	return fmt.Sprintf("revision %d is too far ahead: %v beyond the limit", e.Revision, ahead)
}
