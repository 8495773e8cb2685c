package simulate

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong with a scenario.
type Problem struct {
	File    string
	Line    int    // 0: unknown
	Field   string // workload.arrivals.steps[1].rate
	Message string
}

// Error is the problem as one line.
func (p *Problem) Error() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	if p.Field != "" {
		s += ": " + p.Field
	}
	return s + ": " + p.Message
}

// Problems are all that is wrong with a scenario.
type Problems []*Problem

// Error is the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// decoder reads YAML into Go values. Fields that a struct does not have and values of another type are problems, each with its line.
type decoder struct {
	file     string
	lines    map[string]int // of fields that are there, by path
	problems Problems
}

// node is YAML that a value keeps as it is.
type node struct{ *yaml.Node }

// nodeDecoder is what decodes itself.
type nodeDecoder interface {
	decodeNode(d *decoder, path string, n *yaml.Node)
}

func (d *decoder) errorf(line int, field, format string, args ...any) {
	d.problems = append(d.problems, &Problem{File: d.file, Line: line, Field: field, Message: fmt.Sprintf(format, args...)})
}

// lineOf is the line of a field, or of what it would be in.
func (d *decoder) lineOf(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return d.lines[""]
		}
		path = path[:i]
	}
}

// value decodes n into v.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.lines[path] = n.Line
	if self, ok := v.Addr().Interface().(nodeDecoder); ok {
		self.decodeNode(d, path, n)
		return
	}
	if n.Tag == "!!null" {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem())
	case reflect.Struct:
		d.object(path, n, v)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.errorf(n.Line, path, "must be a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			d.value(fmt.Sprintf("%s[%d]", path, i), item, v.Index(i))
		}
	default:
		d.scalar(path, n, v)
	}
}

func (d *decoder) object(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n.Line, path, "must be a mapping")
		return
	}
	var names []string
	fields := map[string]int{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			names, fields[name] = append(names, name), i
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		field, ok := fields[key.Value]
		switch {
		case seen[key.Value]:
			d.errorf(key.Line, at, "is there twice")
		case !ok:
			d.errorf(key.Line, at, "there is no such field: the fields here are %s", strings.Join(names, ", "))
		default:
			d.value(at, n.Content[i+1], v.Field(field))
		}
		seen[key.Value] = true
	}
}

func (d *decoder) scalar(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.errorf(n.Line, path, "must be a single value")
		return
	}
	var err error
	switch v.Interface().(type) {
	case Duration:
		var t time.Duration
		if t, err = time.ParseDuration(n.Value); err != nil {
			d.errorf(n.Line, path, "%q is not a duration such as 1m30s, 250ms", n.Value)
			return
		}
		v.SetInt(int64(t))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Int:
		var i int64
		if i, err = strconv.ParseInt(n.Value, 10, 32); err != nil {
			d.errorf(n.Line, path, "%q is not a whole number of at most nine digits", n.Value)
		}
		v.SetInt(i)
	case reflect.Uint64:
		var i uint64
		if i, err = strconv.ParseUint(n.Value, 10, 64); err != nil {
			d.errorf(n.Line, path, "%q is not a whole number from 0 on", n.Value)
		}
		v.SetUint(i)
	case reflect.Float64:
		var f float64
		if f, err = strconv.ParseFloat(n.Value, 64); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			d.errorf(n.Line, path, "%q is not a number", n.Value)
			return
		}
		v.SetFloat(f)
	default:
		panic("a scenario has a field of a type that is not decoded: " + v.Type().String())
	}
}

// sorted is the problems by line.
func (d *decoder) sorted() Problems {
	slices.SortStableFunc(d.problems, func(a, b *Problem) int { return a.Line - b.Line })
	return d.problems
}

// decodeNode lets the name of a kind stand for the policy.
func (p *Policy) decodeNode(d *decoder, path string, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		p.Kind = Kind(n.Value)
		return
	}
	type plain Policy // without this method
	var q plain
	d.value(path, n, reflect.ValueOf(&q).Elem())
	*p = Policy(q)
}

// decodeNode keeps the YAML for the schema of LoadPolicy.
func (p *PolicySpec) decodeNode(_ *decoder, _ string, n *yaml.Node) {
	if n.Tag != "!!null" {
		p.given = &node{n}
	}
}
