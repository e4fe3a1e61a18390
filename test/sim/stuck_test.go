package sim

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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
