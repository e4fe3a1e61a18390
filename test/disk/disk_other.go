//go:build !linux

package disk

import "os"

// New returns ErrUnsupported.
func New(dir, name string, size int64) (*Disk, error) { return nil, ErrUnsupported }

// Freeze is not supported.
func (d *Disk) Freeze() error { return ErrUnsupported }

// Thaw is not supported.
func (d *Disk) Thaw() error { return ErrUnsupported }

// Fill is not supported.
func (d *Disk) Fill() error { return ErrUnsupported }

// Restore is not supported.
func (d *Disk) Restore() error { return ErrUnsupported }

func (d *Disk) shutdown() error { return ErrUnsupported }

func writeOut(*os.File, int64, int64) error { return ErrUnsupported }

// witness: no child is made here.
func witness() (released func() error, err error) { return nil, ErrUnsupported }
