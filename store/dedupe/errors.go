package dedupe

import "errors"

// ErrFormat says that a blob is damaged or of a format that is not known here.
var ErrFormat = errors.New("not a dedupe blob")
