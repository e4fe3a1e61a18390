package revision

import (
	"testing"
	"time"
)

func TestGolden(t *testing.T) {
	for _, c := range []struct {
		at  string
		rev uint64
	}{
		{"2020-01-01T00:00:00Z", 0},
		{"2020-01-01T00:00:00.001Z", 1 << 12},
		{"2026-08-17T12:34:56.789Z", 209133296789 << 12},
		{"1999-12-31T23:59:59Z", 0},
	} {
		at, err := time.Parse(time.RFC3339Nano, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := FromTime(at); got != c.rev {
			t.Errorf("FromTime(%s) = %d, want %d", c.at, got, c.rev)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	start := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for days := range 365 * 68 {
		at := start.AddDate(0, 0, days).Add(time.Duration(days) * 1234567 * time.Microsecond)
		rev := FromTime(at)
		if got, want := Time(rev), at.Truncate(time.Millisecond); !got.Equal(want) {
			t.Fatalf("Time(FromTime(%v)) = %v", at, got)
		}
		// Any counter stays within its millisecond.
		if got := Time(rev + 1<<CounterBits - 1); !got.Equal(Time(rev)) {
			t.Fatalf("the counter at %v reaches into %v", Time(rev), got)
		}
	}
}

// JSON numbers carry a revision exactly until 2089.
func TestBelow2To53(t *testing.T) {
	if rev := FromTime(time.Date(2089, 1, 1, 0, 0, 0, 0, time.UTC)); rev >= 1<<53 {
		t.Errorf("a revision of 2089 is %d, above 2^53", rev)
	}
}

func TestFromDuration(t *testing.T) {
	a := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, d := range []time.Duration{0, time.Millisecond, time.Hour, 10 * time.Minute} {
		if got, want := FromDuration(d), FromTime(a.Add(d))-FromTime(a); got != want {
			t.Errorf("FromDuration(%v) = %d, want %d", d, got, want)
		}
	}
	if FromDuration(-time.Second) != 0 {
		t.Error("a negative duration is not 0")
	}
}
