package main

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileValue is a setting's text in the configuration file, and where it stands.
type fileValue struct{ text, origin string }

// parseFile reads the YAML configuration: one mapping with the names of
// settings for keys. Values are scalars; initial-cluster may be a mapping of
// names to addresses too.
func parseFile(path string, data []byte) (map[string]fileValue, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if doc.Kind == 0 {
		return nil, nil // empty, or comments alone
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: this is not a list of 'setting: value'", path, root.Line)
	}
	known := map[string]bool{}
	for _, s := range settings {
		known[s.name] = true
	}
	values := map[string]fileValue{}
	var errs []error
	for i := 0; i < len(root.Content); i += 2 {
		key, node := root.Content[i], root.Content[i+1]
		origin := fmt.Sprintf("%s:%d: %s", path, key.Line, key.Value)
		if !known[key.Value] {
			errs = append(errs, fmt.Errorf("%s: there is no such setting", origin))
			continue
		}
		if _, twice := values[key.Value]; twice {
			errs = append(errs, fmt.Errorf("%s: it stands here twice", origin))
			continue
		}
		text, err := nodeText(key.Value, node)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", origin, err))
			continue
		}
		values[key.Value] = fileValue{text: text, origin: origin}
	}
	return values, errors.Join(errs...)
}

func nodeText(name string, node *yaml.Node) (string, error) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag != "!!null":
		return node.Value, nil
	case node.Kind == yaml.MappingNode && name == "initial-cluster":
		parts := make([]string, 0, len(node.Content)/2)
		for i := 0; i < len(node.Content); i += 2 {
			parts = append(parts, node.Content[i].Value+"="+node.Content[i+1].Value)
		}
		return strings.Join(parts, ","), nil
	case node.Kind == yaml.ScalarNode:
		return "", errors.New("it has no value")
	default:
		return "", errors.New("its value must be a plain one")
	}
}
