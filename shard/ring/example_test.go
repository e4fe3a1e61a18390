package ring_test

import (
	"fmt"

	"github.com/kvd-io/kvd/proto/slot"
	"github.com/kvd-io/kvd/shard/ring"
)

func ExampleNew() {
	r := ring.New([]ring.Member{{ID: 1, Weight: 1}, {ID: 2, Weight: 1}, {ID: 3, Weight: 2}})
	fmt.Println("owner of user:7:", r.Owner(slot.Of([]byte("user:7"))))
	fmt.Printf("share of shard 3: %.0f %%\n", 100*r.Share(3))
	// Output:
	// owner of user:7: 3
	// share of shard 3: 50 %
}
