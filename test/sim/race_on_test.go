//go:build race

package sim

// raceEnabled: everything takes ten times as long.
const raceEnabled = true
