package store

type rewriteState struct{}

func (s *Store) maybeRewrite() {}
