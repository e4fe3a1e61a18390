package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// lineReader reads the lines of a transaction as text.
type lineReader struct {
	scanner *bufio.Scanner
	number  int
}

func newLineReader(r io.Reader) *lineReader {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxInput)
	return &lineReader{scanner: s}
}

// next returns the next line; false: there is none.
func (l *lineReader) next() (line string, ok bool, err error) {
	if !l.scanner.Scan() {
		return "", false, l.scanner.Err()
	}
	l.number++
	return strings.TrimSpace(l.scanner.Text()), true, nil
}

// addLine adds a line of a part of a transaction.
func (t *txnFile) addLine(part int, line string) error {
	if part == 0 {
		c, err := parseCompare(line)
		t.If = append(t.If, c)
		return err
	}
	op, err := parseOp(line)
	if part == 1 {
		t.Then = append(t.Then, op)
	} else {
		t.Else = append(t.Else, op)
	}
	return err
}

var errCompareForm = errors.New(`a compare is TARGET("KEY") OP "VALUE": targets are value, version, create, mod and lease, and OP is =, !=, < or >`)

// parseCompare parses a compare such as mod("key") > "0".
func parseCompare(line string) (c compareFile, err error) {
	target, rest, ok := strings.Cut(line, "(")
	if !ok {
		return c, errCompareForm
	}
	key, rest, err := cutWord(rest, ")")
	if err != nil {
		return c, err
	}
	rest, ok = strings.CutPrefix(strings.TrimSpace(rest), ")")
	if !ok {
		return c, errCompareForm
	}
	rest = strings.TrimSpace(rest)
	for _, op := range []string{"!=", "=", "<", ">"} {
		if after, ok := strings.CutPrefix(rest, op); ok {
			c.Op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	want, left, err := cutWord(rest, "")
	if err != nil {
		return c, err
	}
	if c.Op == "" || strings.TrimSpace(left) != "" || rest == "" {
		return c, errCompareForm
	}
	c.Key = &key
	number := func(to **uint64) error {
		n, err := strconv.ParseUint(want, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", want)
		}
		*to = &n
		return nil
	}
	switch strings.TrimSpace(target) {
	case "value", "val":
		c.Value = &want
	case "version", "ver":
		return c, number(&c.Version)
	case "create", "c":
		return c, number(&c.CreateRevision)
	case "mod", "m":
		return c, number(&c.ModRevision)
	case "lease":
		c.Lease = &want
	default:
		return c, errCompareForm
	}
	return c, nil
}

var errOpForm = errors.New("an operation is put KEY VALUE, get KEY, get --prefix P, del KEY or del --prefix P")

// parseOp parses an operation such as put key value.
func parseOp(line string) (op opFile, err error) {
	var words []string
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		var word string
		if word, rest, err = cutWord(rest, ""); err != nil {
			return op, err
		}
		words = append(words, word)
	}
	keys := func() (k keysFile, err error) {
		switch {
		case len(words) == 2 && words[1] != "--prefix":
			k.Key = &words[1]
		case len(words) == 3 && words[1] == "--prefix":
			k.Prefix = &words[2]
		default:
			err = errOpForm
		}
		return k, err
	}
	switch words[0] {
	case "put":
		if len(words) != 3 {
			return op, errOpForm
		}
		op.Put = &putFile{Key: &words[1], Value: &words[2]}
	case "get":
		k, err := keys()
		if err != nil {
			return op, err
		}
		if k.Key != nil {
			op.Get = &getFile{Key: k.Key}
		} else {
			op.Range = &rangeFile{spanFile: spanFile{Prefix: k.Prefix}}
		}
	case "del", "delete":
		k, err := keys()
		if err != nil {
			return op, err
		}
		op.Delete = &deleteFile{Key: k.Key, spanFile: spanFile{Prefix: k.Prefix}}
	default:
		return op, errOpForm
	}
	return op, nil
}

// keysFile is one key, or those with a prefix.
type keysFile struct{ Key, Prefix *string }

// cutWord returns the word that a text begins with, and the rest. It is quoted as in Go,
// or ends before a blank or one of some bytes.
func cutWord(text, before string) (word, rest string, err error) {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	if strings.HasPrefix(text, `"`) || strings.HasPrefix(text, "`") {
		quoted, err := strconv.QuotedPrefix(text)
		if err != nil {
			return "", "", fmt.Errorf("a quote does not end: %s", text)
		}
		word, err = strconv.Unquote(quoted)
		return word, text[len(quoted):], err
	}
	i := strings.IndexFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(before, r) })
	if i < 0 {
		i = len(text)
	}
	return text[:i], text[i:], nil
}
