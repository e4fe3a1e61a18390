package msgpack

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/kvd-io/kvd/test/bounded"
)

func encode(t testing.TB, v any) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := codec.NewEncoder(&out, &codec.MsgpackHandle{WriteExt: true}).Encode(v); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// samples have a value of every kind and width.
func samples(t testing.TB) [][]byte {
	long := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	many := func(n int) (list []int, m map[int]bool) {
		m = map[int]bool{}
		for i := range n {
			list, m[i] = append(list, i), true
		}
		return list, m
	}
	var all [][]byte
	for _, v := range []any{
		nil, true, 1, -1, 200, -100, 40_000, -30_000, 1 << 20, -1 << 20, 1 << 40, -1 << 40, uint64(1) << 63, float32(1), 1.5,
		"", "short", string(long(40)), string(long(300)), string(long(70_000)), long(5), long(300), long(70_000), time.Unix(1, 2),
		struct {
			Name string
			List []any
		}{"n", []any{1, "a", nil, map[string]int{"x": 1}}},
	} {
		all = append(all, encode(t, v))
	}
	for _, n := range []int{0, 3, 20, 70_000} {
		list, m := many(n)
		all = append(all, encode(t, list), encode(t, m))
	}
	return append(all, []byte{0xd4, 1, 2}, []byte{0xd8, 1, 17: 0}, []byte{0xc7, 3, 1, 1, 2, 3}, []byte{0xc8, 0, 1, 1, 2})
}

func TestCheck(t *testing.T) {
	for _, data := range samples(t) {
		if err := Check(data); err != nil {
			t.Errorf("%.20x, of %d bytes: %v", data, len(data), err)
		}
		for _, bad := range [][]byte{data[:len(data)-1], append(bytes.Clone(data), 0)} {
			if err := Check(bad); !errors.Is(err, ErrFormat) {
				t.Errorf("%.20x, of %d bytes, not %d, is taken", bad, len(bad), len(data))
			}
		}
	}
	if err := Check([]byte{0xc1}); !errors.Is(err, ErrFormat) {
		t.Errorf("a byte that begins no value: %v", err)
	}
}

// What has passed costs the decoder little memory, whatever it is decoded into.
func FuzzCheck(f *testing.F) {
	for _, data := range samples(f) {
		if len(data) < 1000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if Check(data) != nil {
			return
		}
		var typed struct {
			Name string
			Time time.Time
			Data []byte
			List []struct{ A, B string }
		}
		for _, into := range []any{new(any), &typed} {
			bounded.Alloc(t, 4<<20+200*len(data), func() {
				_ = codec.NewDecoder(bytes.NewBuffer(data), &codec.MsgpackHandle{}).Decode(into)
			})
		}
	})
}
