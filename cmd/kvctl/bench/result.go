package bench

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Range and precision of the histogram, in nanoseconds.
const (
	histLowest  = int64(500)
	histHighest = int64(10 * time.Minute)
	histDigits  = 3
)

// maxErrorKinds is how many different errors a Result tells.
const maxErrorKinds = 5

// Result of a run.
type Result struct {
	Operation string `json:"operation"`
	Clients   int    `json:"clients"`
	// Ops that succeeded, and those that did not.
	Ops          int64   `json:"ops"`
	Errors       int64   `json:"errors"`
	Seconds      float64 `json:"seconds"`
	OpsPerSecond float64 `json:"ops_per_second"`
	// Latency of the operations that succeeded, in microseconds.
	Latency Latency `json:"latency_us"`
	// Misses are gets of keys that do not exist; they are among Ops.
	Misses int64 `json:"misses,omitempty"`
	// Samples of the errors met, at most a few, each once.
	Samples []string `json:"error_samples,omitempty"`
}

// Latency in microseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// recorder gathers what all clients of a run measure.
type recorder struct {
	mu      sync.Mutex // guards all below
	hist    *hdrhistogram.Histogram
	ops     int64
	errors  int64
	misses  int64
	samples []string
}

func newRecorder() *recorder {
	return &recorder{hist: hdrhistogram.New(histLowest, histHighest, histDigits)}
}

// add takes over what a client has gathered.
func (r *recorder) add(latencies []time.Duration, misses int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range latencies {
		// Clamped, so it cannot fail.
		_ = r.hist.RecordValue(min(max(int64(d), histLowest), histHighest))
	}
	r.ops += int64(len(latencies))
	r.misses += misses
}

func (r *recorder) addError(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors++
	if len(r.samples) >= maxErrorKinds {
		return
	}
	text := err.Error()
	for _, s := range r.samples {
		if s == text {
			return
		}
	}
	r.samples = append(r.samples, text)
}

func (r *recorder) counts() (ops, errors int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops, r.errors
}

func (r *recorder) result(cfg Config, elapsed time.Duration) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := func(percentile float64) float64 { return micros(float64(r.hist.ValueAtPercentile(percentile))) }
	res := Result{
		Operation: cfg.Operation, Clients: cfg.Clients,
		Ops: r.ops, Errors: r.errors, Misses: r.misses, Samples: r.samples,
		Seconds: math.Round(elapsed.Seconds()*1e3) / 1e3,
	}
	if elapsed > 0 {
		res.OpsPerSecond = math.Round(float64(r.ops)/elapsed.Seconds()*10) / 10
	}
	if r.ops > 0 {
		res.Latency = Latency{
			Mean: micros(r.hist.Mean()),
			P50:  at(50), P90: at(90), P99: at(99), P999: at(99.9),
			Max: micros(float64(r.hist.Max())),
		}
	}
	return res
}

// micros turns nanoseconds into microseconds with one decimal.
func micros(ns float64) float64 { return math.Round(ns/100) / 10 }

// String is the result for people, in a few lines.
func (r Result) String() string {
	us := func(v float64) string {
		d := time.Duration(v * float64(time.Microsecond))
		switch {
		case d >= 10*time.Second:
			return d.Round(time.Millisecond).String()
		case d >= time.Millisecond:
			return d.Round(10 * time.Microsecond).String()
		default:
			return d.Round(100 * time.Nanosecond).String()
		}
	}
	s := fmt.Sprintf("%s  clients %d  ops %d  errors %d  in %.1f s\n", r.Operation, r.Clients, r.Ops, r.Errors, r.Seconds)
	s += fmt.Sprintf("throughput  %.0f ops/s\n", r.OpsPerSecond)
	s += fmt.Sprintf("latency     mean %s  p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n",
		us(r.Latency.Mean), us(r.Latency.P50), us(r.Latency.P90), us(r.Latency.P99), us(r.Latency.P999), us(r.Latency.Max))
	if r.Misses > 0 {
		s += fmt.Sprintf("misses      %d gets met no key\n", r.Misses)
	}
	for _, sample := range r.Samples {
		s += fmt.Sprintf("error       %s\n", sample)
	}
	return s
}
