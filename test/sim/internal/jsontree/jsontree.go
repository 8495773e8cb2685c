// Package jsontree reads a JSON body into a tree that keeps what encoding/json forgets: the order
// of members, the difference between 1 and 1.0, the raw text of every value, and which names came
// twice. Providers judge requests by these details, so the simulators have to see them.
package jsontree

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is the JSON type of a value, as a bit, so that kinds combine into a set.
type Kind uint8

// The kinds. A number without fraction and exponent is an Int, any other one a Num.
const (
	Null Kind = 1 << iota
	Bool
	Int
	Num
	Str
	Arr
	Obj
)

// Any is the set of all kinds.
const Any = Null | Bool | Int | Num | Str | Arr | Obj

// String names the kind in JSON's words.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "boolean"
	case Int:
		return "integer"
	case Num:
		return "number"
	case Str:
		return "string"
	case Arr:
		return "array"
	case Obj:
		return "object"
	}
	return "value"
}

// Node is one JSON value. The zero pointer stands for an absent value: every method accepts it.
type Node struct {
	// Kind is exactly one kind.
	Kind Kind
	// Raw is the value as it was written. It shares memory with the parsed body.
	Raw []byte
	// Text is the decoded string of a Str.
	Text string
	// Items are the elements of an Arr.
	Items []*Node
	// Members are the members of an Obj in order of first appearance; of a repeated name the last value stays.
	Members []Member
}

// Member is one name and value of an object.
type Member struct {
	Name  string
	Value *Node
}

// maxDepth bounds nesting, so that a hostile body cannot exhaust the stack. Real bodies stay under 100.
const maxDepth = 512

// Parse reads a whole body. It also returns the paths of repeated member names (of which the last
// value wins). Invalid UTF-8 is an error, as it is for the providers.
func Parse(body []byte) (*Node, []string, error) {
	if !utf8.Valid(body) {
		return nil, nil, errors.New("the body is not valid UTF-8")
	}
	if !json.Valid(body) {
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			return nil, nil, err
		}
		return nil, nil, errors.New("the body is not valid JSON")
	}
	p := parser{b: body}
	n, err := p.value(0, "")
	if err != nil {
		return nil, nil, err
	}
	return n, p.repeated, nil
}

type parser struct {
	b        []byte
	i        int
	repeated []string
}

// space skips white space. The text is known to be valid JSON, so bounds hold by grammar.
func (p *parser) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) value(depth int, path string) (*Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the body nests deeper than %d levels", maxDepth)
	}
	p.space()
	start := p.i
	n := &Node{}
	var err error
	switch c := p.b[p.i]; c {
	case '{':
		n.Kind = Obj
		err = p.object(n, depth, path)
	case '[':
		n.Kind = Arr
		err = p.array(n, depth, path)
	case '"':
		n.Kind = Str
		n.Text, err = p.text()
	case 't', 'n':
		n.Kind = Bool
		if c == 'n' {
			n.Kind = Null
		}
		p.i += 4
	case 'f':
		n.Kind = Bool
		p.i += 5
	default:
		n.Kind = Int
		for p.i < len(p.b) && strings.IndexByte("+-.0123456789eE", p.b[p.i]) >= 0 {
			if strings.IndexByte(".eE", p.b[p.i]) >= 0 {
				n.Kind = Num
			}
			p.i++
		}
	}
	n.Raw = p.b[start:p.i]
	return n, err
}

func (p *parser) object(n *Node, depth int, path string) error {
	p.i++
	at := map[string]int{}
	for {
		p.space()
		if p.b[p.i] == '}' {
			p.i++
			return nil
		}
		if p.b[p.i] == ',' {
			p.i++
			p.space()
		}
		name, err := p.text()
		if err != nil {
			return err
		}
		p.space()
		p.i++ // the colon
		where := strings.TrimPrefix(path+"."+name, ".")
		v, err := p.value(depth+1, where)
		if err != nil {
			return err
		}
		if j, ok := at[name]; ok {
			p.repeated = append(p.repeated, where)
			n.Members[j].Value = v
			continue
		}
		at[name] = len(n.Members)
		n.Members = append(n.Members, Member{name, v})
	}
}

func (p *parser) array(n *Node, depth int, path string) error {
	p.i++
	for {
		p.space()
		switch p.b[p.i] {
		case ']':
			p.i++
			return nil
		case ',':
			p.i++
		}
		v, err := p.value(depth+1, path+"."+strconv.Itoa(len(n.Items)))
		if err != nil {
			return err
		}
		n.Items = append(n.Items, v)
	}
}

func (p *parser) text() (string, error) {
	start := p.i
	p.i++
	plain := true
	for p.b[p.i] != '"' {
		if p.b[p.i] == '\\' {
			plain = false
			p.i++
		}
		p.i++
	}
	p.i++
	if plain {
		return string(p.b[start+1 : p.i-1]), nil
	}
	var s string
	err := json.Unmarshal(p.b[start:p.i], &s)
	return s, err
}

// Get returns the member of that name, or nil when the node is no object, has no such member, or
// holds null there (which every provider treats as absent).
func (n *Node) Get(name string) *Node {
	if n == nil {
		return nil
	}
	for i := range n.Members {
		if n.Members[i].Name == name {
			if n.Members[i].Value.Kind == Null {
				return nil
			}
			return n.Members[i].Value
		}
	}
	return nil
}

// At follows a path of member names.
func (n *Node) At(names ...string) *Node {
	for _, name := range names {
		n = n.Get(name)
	}
	return n
}

// Is tells whether the node exists and is of one of the kinds.
func (n *Node) Is(k Kind) bool { return n != nil && n.Kind&k != 0 }

// Str returns the decoded string, or "" for anything else.
func (n *Node) Str() string {
	if n == nil {
		return ""
	}
	return n.Text
}

// Int returns an integer, or zero for anything that is none or overflows.
func (n *Node) Int() int {
	if !n.Is(Int) {
		return 0
	}
	v, _ := strconv.Atoi(string(n.Raw))
	return v
}

// Float returns a number, or zero for anything else.
func (n *Node) Float() float64 {
	if !n.Is(Int | Num) {
		return 0
	}
	v, _ := strconv.ParseFloat(string(n.Raw), 64)
	return v
}

// True tells whether the node is the literal true.
func (n *Node) True() bool { return n.Is(Bool) && n.Raw[0] == 't' }

// False tells whether the node is the literal false, which an absent value is not.
func (n *Node) False() bool { return n.Is(Bool) && n.Raw[0] == 'f' }

// List returns the elements of an array, nil otherwise.
func (n *Node) List() []*Node {
	if n == nil {
		return nil
	}
	return n.Items
}

// JSON returns the value as it was written, or "" when absent.
func (n *Node) JSON() string {
	if n == nil {
		return ""
	}
	return string(n.Raw)
}

// Strings returns the texts of a string, or of the strings in an array.
func (n *Node) Strings() []string {
	if n.Is(Str) {
		return []string{n.Text}
	}
	var out []string
	for _, it := range n.List() {
		if it.Is(Str) {
			out = append(out, it.Text)
		}
	}
	return out
}
