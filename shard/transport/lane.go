package transport

import "strconv"

// lane is what a connection is for. Messages of one lane do not wait behind
// those of another. The numbers are part of the wire format.
type lane uint32

const (
	// laneFast carries what is small and urgent: heartbeats, read rounds, votes,
	// calls.
	laneFast lane = 1
	// laneSnapshot carries snapshots, which are large and patient.
	laneSnapshot lane = 2
	// laneAppend and the following carry appends; a group uses one of them.
	laneAppend lane = 16
)

// maxAppendLanes is how many append lanes a node accepts.
const maxAppendLanes = 16

// appendLane returns the lane of a group's appends.
func appendLane(group uint32) lane { return laneAppend + lane(group%appendLanes) }

func (l lane) valid() bool {
	return l == laneFast || l == laneSnapshot || l >= laneAppend && l < laneAppend+maxAppendLanes
}

// String returns the lane's name in metrics and logs.
func (l lane) String() string {
	switch l {
	case laneFast:
		return "fast"
	case laneSnapshot:
		return "snapshot"
	default:
		return "append" + strconv.Itoa(int(l-laneAppend))
	}
}
