package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/kvd-io/kvd/client"
)

// txnFile is a transaction as it stands in a file.
type txnFile struct {
	If   []compareFile `json:"if"   yaml:"if"`
	Then []opFile      `json:"then" yaml:"then"`
	Else []opFile      `json:"else" yaml:"else"`
}

// spanFile selects keys: those with a prefix, or from one on and before another.
type spanFile struct {
	Prefix *string `json:"prefix" yaml:"prefix"`
	Start  *string `json:"start"  yaml:"start"`
	End    *string `json:"end"    yaml:"end"`
}

type compareFile struct {
	Key            *string `json:"key"             yaml:"key"`
	KeyBase64      *string `json:"key_base64"      yaml:"key_base64"`
	Op             string  `json:"op"              yaml:"op"`
	Value          *string `json:"value"           yaml:"value"`
	ValueBase64    *string `json:"value_base64"    yaml:"value_base64"`
	Version        *uint64 `json:"version"         yaml:"version"`
	CreateRevision *uint64 `json:"create_revision" yaml:"create_revision"`
	ModRevision    *uint64 `json:"mod_revision"    yaml:"mod_revision"`
	Lease          *string `json:"lease"           yaml:"lease"`
	spanFile       `yaml:",inline"`
	NoneNewer      *uint64 `json:"none_newer" yaml:"none_newer"`
	Count          *uint64 `json:"count"      yaml:"count"`
}

type opFile struct {
	Put    *putFile    `json:"put"    yaml:"put"`
	Get    *getFile    `json:"get"    yaml:"get"`
	Delete *deleteFile `json:"delete" yaml:"delete"`
	Range  *rangeFile  `json:"range"  yaml:"range"`
}

type putFile struct {
	Key         *string `json:"key"          yaml:"key"`
	KeyBase64   *string `json:"key_base64"   yaml:"key_base64"`
	Value       *string `json:"value"        yaml:"value"`
	ValueBase64 *string `json:"value_base64" yaml:"value_base64"`
	Lease       *string `json:"lease"        yaml:"lease"`
	Prev        bool    `json:"prev"         yaml:"prev"`
}

type getFile struct {
	Key       *string `json:"key"        yaml:"key"`
	KeyBase64 *string `json:"key_base64" yaml:"key_base64"`
}

type deleteFile struct {
	Key       *string `json:"key"        yaml:"key"`
	KeyBase64 *string `json:"key_base64" yaml:"key_base64"`
	spanFile  `yaml:",inline"`
	Prev      bool `json:"prev" yaml:"prev"`
}

type rangeFile struct {
	spanFile  `yaml:",inline"`
	Limit     int  `json:"limit"      yaml:"limit"`
	Reverse   bool `json:"reverse"    yaml:"reverse"`
	KeysOnly  bool `json:"keys_only"  yaml:"keys_only"`
	CountOnly bool `json:"count_only" yaml:"count_only"`
}

// parseTxn parses a transaction in JSON or YAML.
func parseTxn(data []byte) (*txnFile, error) {
	t := new(txnFile)
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err = dec.Decode(t); err == nil && !errors.Is(dec.Decode(new(any)), io.EOF) {
			err = errors.New("there is something after the transaction")
		}
	} else {
		dec := yaml.NewDecoder(bytes.NewReader(data))
		dec.KnownFields(true)
		if err = dec.Decode(t); err == nil && !errors.Is(dec.Decode(new(any)), io.EOF) {
			err = errors.New("there is a second document")
		}
	}
	if errors.Is(err, io.EOF) {
		return nil, usagef("the transaction is empty")
	}
	if err != nil {
		return nil, usagef("the transaction cannot be read: %w", err)
	}
	return t, nil
}

// txn makes the transaction.
func (t *txnFile) txn() (client.Txn, error) {
	var txn client.Txn
	for i := range t.If {
		c, err := t.If[i].compare()
		if err != nil {
			return txn, usagef("compare %d: %w", i+1, err)
		}
		txn.If = append(txn.If, c)
	}
	for _, branch := range []struct {
		name string
		from []opFile
		to   *[]client.Op
	}{{"then", t.Then, &txn.Then}, {"else", t.Else, &txn.Else}} {
		for i := range branch.from {
			op, err := branch.from[i].op()
			if err != nil {
				return txn, usagef("operation %d of %s: %w", i+1, branch.name, err)
			}
			*branch.to = append(*branch.to, op)
		}
	}
	return txn, nil
}

// bytesOf returns what stands as text or in base64; false: nothing does.
func bytesOf(name string, text, encoded *string) (data []byte, ok bool, err error) {
	switch {
	case text != nil && encoded != nil:
		return nil, false, fmt.Errorf("%s and %s_base64 contradict each other", name, name)
	case text != nil:
		return []byte(*text), true, nil
	case encoded != nil:
		data, err = base64.StdEncoding.DecodeString(*encoded)
		if err != nil {
			err = fmt.Errorf("%s_base64: %w", name, err)
		}
		return data, true, err
	}
	return nil, false, nil
}

func keyOf(text, encoded *string) (string, error) {
	key, ok, err := bytesOf("key", text, encoded)
	if err == nil && !ok {
		err = errors.New("it has no key")
	}
	return string(key), err
}

func leaseOf(text *string) (uint64, error) {
	if text == nil || *text == "" || *text == "0" {
		return 0, nil
	}
	id, err := strconv.ParseUint(*text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("lease %q is not an id", *text)
	}
	return id, nil
}

// keys returns the options that select the keys; none: nothing is selected.
func (s *spanFile) keys() (keys []client.SelectOption) {
	if s.Prefix != nil {
		keys = append(keys, client.Prefix(*s.Prefix))
	}
	if s.Start != nil {
		keys = append(keys, client.From(*s.Start))
	}
	if s.End != nil {
		keys = append(keys, client.To(*s.End))
	}
	return keys
}

var errNoKeys = errors.New(`say which keys: prefix, or start and end; "prefix": "" stands for all`)

var relations = map[string]client.Relation{"": client.Equal, "=": client.Equal, "!=": client.NotEqual, "<": client.Less, ">": client.Greater}

func (c *compareFile) compare() (out client.Compare, err error) {
	is, ok := relations[c.Op]
	if !ok {
		return out, fmt.Errorf("op %q: must be =, !=, < or >", c.Op)
	}
	if c.NoneNewer != nil {
		return c.compareRange()
	}
	key, err := keyOf(c.Key, c.KeyBase64)
	if err != nil {
		return out, err
	}
	value, hasValue, err := bytesOf("value", c.Value, c.ValueBase64)
	if err != nil {
		return out, err
	}
	targets := 0
	set := func(has bool, compare func() client.Compare) {
		if has {
			targets++
			out = compare()
		}
	}
	set(hasValue, func() client.Compare { return client.IfValue(key, is, value) })
	set(c.Version != nil, func() client.Compare { return client.IfVersion(key, is, *c.Version) })
	set(c.CreateRevision != nil, func() client.Compare { return client.IfCreateRevision(key, is, *c.CreateRevision) })
	set(c.ModRevision != nil, func() client.Compare { return client.IfModRevision(key, is, *c.ModRevision) })
	lease, err := leaseOf(c.Lease)
	set(c.Lease != nil, func() client.Compare { return client.IfLease(key, is, lease) })
	if err == nil && (targets != 1 || len(c.keys()) > 0 || c.Count != nil) {
		err = errors.New("it has a key and one of value, version, create_revision, mod_revision, lease; or prefix, start, end and none_newer")
	}
	return out, err
}

func (c *compareFile) compareRange() (out client.Compare, err error) {
	keys := c.keys()
	switch {
	case len(keys) == 0:
		return out, errNoKeys
	case c.Op != "" || c.Key != nil || c.KeyBase64 != nil || c.Value != nil || c.ValueBase64 != nil ||
		c.Version != nil || c.CreateRevision != nil || c.ModRevision != nil || c.Lease != nil:
		return out, errors.New("none_newer goes with prefix, start, end and count alone")
	}
	out = client.IfNoneNewer(*c.NoneNewer, keys...)
	if c.Count != nil {
		out = out.Count(*c.Count)
	}
	return out, nil
}

func (o *opFile) op() (client.Op, error) {
	kinds := 0
	for _, given := range []bool{o.Put != nil, o.Get != nil, o.Delete != nil, o.Range != nil} {
		if given {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return client.Op{}, errors.New("it is one of put, get, delete and range")
	case o.Put != nil:
		return o.Put.op()
	case o.Get != nil:
		key, err := keyOf(o.Get.Key, o.Get.KeyBase64)
		return client.OpGet(key), err
	case o.Delete != nil:
		return o.Delete.op()
	}
	return o.Range.op()
}

func (p *putFile) op() (op client.Op, err error) {
	key, err := keyOf(p.Key, p.KeyBase64)
	if err != nil {
		return op, err
	}
	value, ok, err := bytesOf("value", p.Value, p.ValueBase64)
	if err == nil && !ok {
		err = errors.New("it has no value")
	}
	if err != nil {
		return op, err
	}
	lease, err := leaseOf(p.Lease)
	opts := []client.PutOption{client.WithLease(lease)}
	if p.Prev {
		opts = append(opts, client.WithPrev())
	}
	return client.OpPut(key, value, opts...), err
}

func (d *deleteFile) op() (op client.Op, err error) {
	keys, one := d.keys(), d.Key != nil || d.KeyBase64 != nil
	switch {
	case one && len(keys) > 0:
		return op, errors.New("key contradicts prefix, start and end")
	case one:
		var opts []client.DeleteOption
		if d.Prev {
			opts = append(opts, client.WithPrev())
		}
		key, err := keyOf(d.Key, d.KeyBase64)
		return client.OpDelete(key, opts...), err
	case d.Prev:
		return op, errors.New("prev is for the delete of one key")
	case len(keys) == 0:
		return op, errNoKeys
	}
	return client.OpDeleteRange(keys...), nil
}

func (r *rangeFile) op() (op client.Op, err error) {
	keys := r.keys()
	switch {
	case len(keys) == 0:
		return op, errNoKeys
	case r.CountOnly && (r.Limit != 0 || r.Reverse || r.KeysOnly):
		return op, errors.New("count_only contradicts limit, reverse and keys_only")
	case r.CountOnly:
		return client.OpCount(keys...), nil
	}
	opts := []client.RangeOption{client.Limit(r.Limit)}
	for _, k := range keys {
		opts = append(opts, k)
	}
	if r.Reverse {
		opts = append(opts, client.Reverse())
	}
	if r.KeysOnly {
		opts = append(opts, client.KeysOnly())
	}
	return client.OpRange(opts...), nil
}
