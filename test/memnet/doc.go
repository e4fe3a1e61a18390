// Package memnet is a network in memory for tests: hosts that listen and dial,
// connections with buffers and deadlines, and links between hosts that can be
// blocked, delayed and cut.
//
// It works inside testing/synctest bubbles when the Network is made in the
// bubble: whatever waits does so on channels, and time comes from package time
// alone. It knows no lost or reordered bytes, as TCP does not; a blocked link
// holds them until it is unblocked.
package memnet
