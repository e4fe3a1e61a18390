package sim

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// endIfStuck ends the process unless it is stopped within a limit of real time.
// Virtual time stands for as long as one goroutine of a bubble is not blocked on
// another of it, so one that waits for a mutex whose owner sleeps, or that spins,
// has its life last for ever. The last that is printed are those goroutines, and
// how to repeat the life.
func endIfStuck(limit time.Duration, command string) (stop func()) {
	t := time.AfterFunc(limit, func() {
		all := stacks()
		_, _ = os.Stderr.Write(all)
		fmt.Fprintf(os.Stderr, "\na life has taken %v of real time, of which its clock waits for:\n\n%s\nto repeat: %s\n",
			limit, awake(all), command)
		os.Exit(2)
	})
	return func() { t.Stop() }
}

// stacks are those of all goroutines.
func stacks() []byte {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			return buf[:n]
		}
		buf = make([]byte, 2*len(buf))
	}
}

// awake is what of the stacks belongs to goroutines that virtual time waits for.
func awake(all []byte) []byte {
	var out [][]byte
	for g := range bytes.SplitSeq(all, []byte("\n\n")) {
		head, _, _ := bytes.Cut(g, []byte("\n"))
		if bytes.Contains(head, []byte("synctest bubble")) && !bytes.Contains(head, []byte("(durable)")) {
			out = append(out, g)
		}
	}
	return bytes.Join(out, []byte("\n\n"))
}

// TestAwake finds the goroutine that virtual time waits for, and no other.
func TestAwake(t *testing.T) {
	var mu sync.Mutex
	mu.Lock()
	var found sync.WaitGroup
	found.Go(func() { // outside of the bubble, where time goes on
		defer mu.Unlock()
		for began := time.Now(); time.Since(began) < 10*time.Second; {
			all := stacks()
			got := awake(all)
			if bytes.Contains(got, []byte("waitsForMutex")) && bytes.Contains(all, []byte("waitsForChannel")) &&
				!bytes.Contains(got, []byte("waitsForChannel")) {
				return
			}
		}
		t.Errorf("of\n%s\nawake are\n%s", stacks(), awake(stacks()))
	})
	synctest.Test(t, func(t *testing.T) {
		asleep := make(chan struct{})
		go waitsForChannel(asleep)
		waitsForMutex(&mu)
		close(asleep)
	})
	found.Wait()
}

func waitsForMutex(mu *sync.Mutex) {
	mu.Lock()
	mu.Unlock() //nolint:staticcheck // to have waited is all
}

func waitsForChannel(c chan struct{}) { <-c }
