package client

import (
	"strings"
	"testing"
	"time"
)

func TestConfigValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string // in the error; empty: there is none
	}{
		{"good", Config{Endpoints: []string{"127.0.0.1:7400", "[::1]:7400"}}, ""},
		{"none", Config{}, "no endpoints"},
		{"no port", Config{Endpoints: []string{"localhost"}}, "HOST:PORT"},
		{"one without port", Config{Endpoints: []string{"a:1", "b"}}, `"b"`},
		{"timeout", Config{Endpoints: []string{"a:1"}, Timeout: -1}, "negative"},
		{"pending", Config{Endpoints: []string{"a:1"}, MaxPending: -1}, "negative"},
		{"pending bytes", Config{Endpoints: []string{"a:1"}, MaxPendingBytes: -1}, "negative"},
		{"close timeout", Config{Endpoints: []string{"a:1"}, CloseTimeout: -1}, "negative"},
		{"short attempts", Config{Endpoints: []string{"a:1"}, AttemptTimeout: time.Millisecond}, "at least 10ms"},
		{"negative attempts", Config{Endpoints: []string{"a:1"}, AttemptTimeout: -time.Second}, "at least 10ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.cfg.Validate()
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q in it", err, c.want)
			}
			if _, err := New(c.cfg); err == nil {
				t.Fatal("New takes it")
			}
		})
	}
}

func TestConfigDefaults(t *testing.T) {
	cfg := Config{Endpoints: []string{"a:1"}}.withDefaults()
	if cfg.Dial == nil || cfg.Logger == nil || cfg.Timeout != DefaultTimeout || cfg.AttemptTimeout != DefaultAttemptTimeout ||
		cfg.MaxPending != DefaultMaxPending || cfg.MaxPendingBytes != DefaultMaxPendingBytes || cfg.CloseTimeout != DefaultCloseTimeout {
		t.Errorf("defaults are %+v", cfg)
	}
	cfg = Config{Timeout: 1, AttemptTimeout: 2, MaxPending: 3, MaxPendingBytes: 4, CloseTimeout: 5}.withDefaults()
	if cfg.Timeout != 1 || cfg.AttemptTimeout != 2 || cfg.MaxPending != 3 || cfg.MaxPendingBytes != 4 || cfg.CloseTimeout != 5 {
		t.Errorf("what was given became %+v", cfg)
	}
}
