package shard

// TxnStep is a point in the course of a transaction of several shards.
type TxnStep string

// Steps of the node that leads the deciding shard, and of one that leads another.
const (
	StepBegun     TxnStep = "begun"     // nothing has been asked for
	StepPrepare   TxnStep = "prepare"   // a participant has been asked to prepare
	StepPrepared  TxnStep = "prepared"  // it has prepared, and not said so
	StepDecide    TxnStep = "decide"    // all have prepared
	StepDecided   TxnStep = "decided"   // it is decided, and nobody knows
	StepTell      TxnStep = "tell"      // a participant is about to be told
	StepResolve   TxnStep = "resolve"   // a participant has been told
	StepResolved  TxnStep = "resolved"  // it has done its part, and not said so
	StepForget    TxnStep = "forget"    // all have done their parts
	StepForgotten TxnStep = "forgotten" // nothing is left
)

// TxnSteps are all, in their order.
var TxnSteps = []TxnStep{
	StepBegun, StepPrepare, StepPrepared, StepDecide, StepDecided, StepTell, StepResolve, StepResolved, StepForget, StepForgotten,
}

// OfAnchor tells whether it is the deciding shard's leader that takes the step.
func (s TxnStep) OfAnchor() bool {
	switch s {
	case StepPrepare, StepPrepared, StepResolve, StepResolved:
		return false
	}
	return true
}
