package simulate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	yaml "go.yaml.in/yaml/v3"

	"github.com/weir-dev/weir/api/schema"
	"github.com/weir-dev/weir/api/v1alpha1"
)

const (
	apiVersion = "weir.dev/v1alpha1"
	policyKind = "LoadPolicy"
	poolName   = "pool"
)

// policies reads the LoadPolicies that the scenario gives, as Weir would. A policy of the scenario without one of its own has
// the scenario's.
func (d *decoder) policies(s *Scenario, dir string) error {
	validator, err := schema.New()
	if err != nil {
		return err
	}
	if err := d.policy("loadPolicy", &s.LoadPolicy, validator, dir); err != nil {
		return err
	}
	for i := range s.Policies {
		p := &s.Policies[i].LoadPolicy
		if p.given == nil {
			*p = s.LoadPolicy
			continue
		}
		if err := d.policy(fmt.Sprintf("policies[%d].loadPolicy", i), p, validator, dir); err != nil {
			return err
		}
	}
	return nil
}

// policy reads one. An error is one of the program, not of the scenario.
func (d *decoder) policy(path string, p *PolicySpec, validator *schema.Validator, dir string) error {
	object := map[string]any{"apiVersion": apiVersion, "kind": policyKind, "metadata": map[string]any{"name": poolName}}
	line := d.lineOf(path)
	fail := func(format string, args ...any) error {
		d.errorf(line, path, format, args...)
		return nil
	}
	spec := map[string]any{}
	switch {
	case p.given == nil:
	case p.given.Kind == yaml.ScalarNode:
		fromFile, err := readPolicy(filepath.Join(dir, p.given.Value))
		if err != nil {
			return fail("%v", err)
		}
		object, path = fromFile, path+" "+p.given.Value
		if spec, _ = object["spec"].(map[string]any); spec == nil {
			spec = map[string]any{}
		}
	default:
		if err := p.given.Decode(&spec); err != nil {
			return fail("must be the spec of a LoadPolicy, or the name of a file: %v", err)
		}
	}
	if _, ok := spec["targetRefs"]; !ok {
		spec["targetRefs"] = []any{map[string]any{"kind": "Backend", "name": poolName}}
	}
	object["spec"] = spec
	checked, errs := validator.Validate(object)
	for _, e := range errs {
		field := path + strings.TrimPrefix(e.Field, "spec")
		at := line
		if p.given != nil && p.given.Kind == yaml.MappingNode {
			at = lineIn(p.given.Node, strings.TrimPrefix(e.Field, "spec."))
		}
		d.errorf(at, field, "%s", e.ErrorBody())
	}
	if len(errs) > 0 {
		return nil
	}
	raw, err := json.Marshal(checked)
	if err != nil {
		return err
	}
	p.Policy = &v1alpha1.LoadPolicy{}
	return json.Unmarshal(raw, p.Policy)
}

// lineIn is the line of a field below a mapping, or of what it would be in.
func lineIn(n *yaml.Node, field string) int {
	line := n.Line
	for _, name := range strings.FieldsFunc(field, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		var next *yaml.Node
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				line, next = n.Content[i].Line, n.Content[i+1]
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return line
}

// readPolicy finds the LoadPolicy of a file that may hold other objects too.
func readPolicy(file string) (map[string]any, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var found map[string]any
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	for {
		var object map[string]any
		if err := dec.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if object["kind"] != policyKind {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s holds more than one LoadPolicy: put the one to simulate into a file of its own", file)
		}
		found = object
	}
	if found == nil {
		return nil, fmt.Errorf("%s holds no LoadPolicy", file)
	}
	return found, nil
}
