package client

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"slices"
)

const (
	// DefaultPageSize is the most keys that RangePage returns without a Limit.
	DefaultPageSize = 1000
	// maxPageBytes ends a page early.
	maxPageBytes = 8 << 20
)

// RangePage returns the first keys that the options select and a token to go on
// with. The next page is read at the revisions of the first.
func (c *Client) RangePage(ctx context.Context, opts ...RangeOption) (Page, error) {
	o := gatherRange(opts)
	page, err := c.rangePage(ctx, &o)
	if err != nil {
		return Page{}, &Error{Op: "range", Key: o.start(), Err: c.overall(ctx, o.span(), err)}
	}
	return page, nil
}

func (c *Client) rangePage(ctx context.Context, o *rangeOptions) (Page, error) {
	if o.limit == 0 {
		o.limit = DefaultPageSize
	}
	sum := o.fingerprint()
	var revisions map[uint32]uint64
	if o.token != "" {
		tok, err := parseToken(o.token, sum)
		if err != nil {
			return Page{}, err
		}
		revisions = tok.revisions
		if o.reverse {
			o.to = tok.last
		} else {
			o.from = tok.last + "\x00"
		}
	}
	s, err := c.scan(ctx, o, revisions)
	if err != nil {
		return Page{}, err
	}
	defer s.close()
	var page Page
	for size := 0; s.taken < o.limit && size < maxPageBytes; {
		kv, err := s.next()
		if err != nil {
			return Page{}, err
		}
		if kv == nil {
			break
		}
		page.KVs = append(page.KVs, keyValue(kv, ""))
		size += len(kv.Key) + len(kv.Value)
	}
	more, err := s.more()
	if err != nil {
		return Page{}, err
	}
	page.RangeInfo = s.info
	page.More = more
	if more && len(page.KVs) > 0 {
		page.NextToken = s.token(page.KVs[len(page.KVs)-1].Key, sum, revisions)
	}
	return page, nil
}

// fingerprint stands for the options that a token holds for. It has revisions itself.
func (o *rangeOptions) fingerprint() uint32 {
	var flags byte
	for i, on := range []bool{o.reverse, o.keysOnly, o.stale} {
		if on {
			flags |= 1 << i
		}
	}
	b := []byte{flags}
	for _, s := range []string{o.prefix, o.from, o.to} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return crc32.Checksum(b, castagnoli)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tokenVersion is the first byte of a token.
const tokenVersion = 1

// token is where a page ended: the last key, and the revision of each shard.
// Its text form is for whoever may hold it, and is checked when it comes back:
// version, fingerprint of the options, key, revisions, CRC32C.
type token struct {
	last      string
	revisions map[uint32]uint64
}

func (s *scan) token(last string, sum uint32, revisions map[uint32]uint64) string {
	t := token{last: last, revisions: make(map[uint32]uint64, len(s.sources))}
	for id, rev := range revisions {
		t.revisions[id] = rev
	}
	for _, src := range s.sources {
		if src.revision != 0 {
			t.revisions[src.shard.id] = src.revision
		}
	}
	return t.encode(sum)
}

func (t token) encode(sum uint32) string {
	b := []byte{tokenVersion}
	b = binary.BigEndian.AppendUint32(b, sum)
	b = binary.AppendUvarint(b, uint64(len(t.last)))
	b = append(b, t.last...)
	ids := make([]uint32, 0, len(t.revisions))
	for id := range t.revisions {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id))
		b = binary.AppendUvarint(b, t.revisions[id])
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

var errToken = &explainedError{kind: ErrInvalid, message: "damaged page token: give the one that RangePage returned, unchanged"}

// parseToken reads a token and checks that it goes with the options.
func parseToken(text string, sum uint32) (token, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < 1+4+4 {
		return token{}, errToken
	}
	b, check := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(b, castagnoli) != check || b[0] != tokenVersion {
		return token{}, errToken
	}
	if binary.BigEndian.Uint32(b[1:]) != sum {
		return token{}, &explainedError{kind: ErrInvalid, message: "page token of another range: give the options of the page that returned it"}
	}
	b = b[5:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return token{}, errToken
	}
	b = b[n:]
	t := token{last: string(b[:size]), revisions: make(map[uint32]uint64)}
	for b = b[size:]; len(b) > 0; {
		id, n := binary.Uvarint(b)
		if n <= 0 || id > 1<<32-1 {
			return token{}, errToken
		}
		rev, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return token{}, errToken
		}
		t.revisions[uint32(id)] = rev
		b = b[n+m:]
	}
	return t, nil
}
