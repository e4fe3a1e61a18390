package client

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"reflect"
	"testing"

	"github.com/kvd-io/kvd/test/bounded"
)

// A page token comes back from whoever held it: whatever it has become, it is
// refused or means what it encodes as. The input is tried as it is, and with the
// version, fingerprint and checksum that keep a fuzzer out.
func FuzzParseToken(f *testing.F) {
	const sum = 0x01020304
	f.Add([]byte(token{last: "key", revisions: map[uint32]uint64{1: 7, 2: 1 << 52}}.encode(sum)))
	f.Add([]byte("\x03key\x01\x07"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		sealed := binary.BigEndian.AppendUint32([]byte{tokenVersion}, sum)
		sealed = append(sealed, data...)
		sealed = binary.BigEndian.AppendUint32(sealed, crc32.Checksum(sealed, castagnoli))
		for _, text := range []string{string(data), base64.RawURLEncoding.EncodeToString(sealed)} {
			var tok token
			var err error
			bounded.Alloc(t, 1<<20+100*len(text), func() { tok, err = parseToken(text, sum) })
			if err != nil {
				continue
			}
			if again, err := parseToken(tok.encode(sum), sum); err != nil || !reflect.DeepEqual(again, tok) {
				t.Fatalf("token %q is %+v, encoded again %+v, %v", text, tok, again, err)
			}
			if _, err := parseToken(tok.encode(sum), sum+1); err == nil {
				t.Fatal("the token of another range is taken")
			}
		}
	})
}
