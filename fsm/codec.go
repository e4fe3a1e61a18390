package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/kvd-io/kvd/proto/logpb"
)

// An entry in the log is a format byte, the CRC32C of the rest (4 bytes, little
// endian) and the message.
const (
	entryFormat = 1
	headerBytes = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the entry as it stands in the log.
func Encode(e *logpb.Entry) ([]byte, error) {
	data := make([]byte, headerBytes+e.SizeVT())
	body := data[headerBytes:]
	if _, err := e.MarshalToSizedBufferVT(body); err != nil {
		return nil, fmt.Errorf("encode log entry: %w", err)
	}
	data[0] = entryFormat
	binary.LittleEndian.PutUint32(data[1:], crc32.Checksum(body, castagnoli))
	return data, nil
}

// EncodedSize returns how many bytes Encode makes of the entry.
func EncodedSize(e *logpb.Entry) int { return headerBytes + e.SizeVT() }

// Decode reads what Encode made into e, which must be empty. Keys and values in
// e alias data, which must not change afterwards. It does not judge what the
// entry says.
func Decode(data []byte, e *logpb.Entry) error {
	body, err := verify(data)
	if err != nil {
		return err
	}
	return unmarshal(body, e)
}

// verify returns the message in what Encode made.
func verify(data []byte) (body []byte, err error) {
	if len(data) < headerBytes || data[0] != entryFormat {
		return nil, ErrFormat
	}
	body = data[headerBytes:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(data[1:]) {
		return nil, ErrChecksum
	}
	return body, nil
}

func unmarshal(body []byte, e *logpb.Entry) error {
	if err := e.UnmarshalVTUnsafe(body); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}
