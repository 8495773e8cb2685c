package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
)

// Speaker is whose words are looked at.
type Speaker uint8

// The speakers.
const (
	User Speaker = iota
	Assistant
)

// Env compiles expressions. One is enough for all.
type Env struct{ env *cel.Env }

// NewEnv makes an Env.
func NewEnv() (*Env, error) {
	env, err := cel.NewEnv(
		cel.Variable("text", cel.StringType),
		cel.Variable("slots", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("entities", cel.MapType(cel.StringType, cel.ListType(cel.StringType))),
		cel.Variable("state", cel.StringType),
		cel.Variable("intent", cel.StringType),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("event", cel.StringType),
		cel.OptionalTypes(),
		ext.Strings(), ext.Regex(),
	)
	if err != nil {
		return nil, err
	}
	return &Env{env}, nil
}

const (
	// maxCost of one evaluation, in CEL's units: a look at every byte of the longest text costs a tenth of it.
	maxCost = 500_000
	// maxTime of one evaluation. Some functions cost more than CEL counts, such as to split a text.
	maxTime = 50 * time.Millisecond
)

// Expression is a compiled expression.
type Expression struct {
	program cel.Program
	headers bool // it may ask for headers
}

// Compile compiles an expression. Where yes is set, its value must be true or false.
func (e *Env) Compile(text string, yes bool) (*Expression, error) {
	ast, issues := e.env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("the expression does not compile: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	if t := ast.OutputType(); yes && t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("the expression gives a value of the type %s, and must say true or false", t)
	}
	p, err := e.env.Program(ast, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(1))
	if err != nil {
		return nil, fmt.Errorf("the expression cannot be used: %w", err)
	}
	return &Expression{program: p, headers: strings.Contains(text, "headers")}, nil
}

// Pattern compiles a regular expression.
func Pattern(text string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("the regular expression does not compile: %w", err)
	}
	return re, nil
}

// facts are what expressions see.
type facts struct {
	s       *Session
	text    string
	event   string
	headers http.Header
	shown   map[string]string // headers, made when they are asked for
}

func (f *facts) vars(e *Expression) map[string]any {
	if e.headers && f.shown == nil {
		f.shown = make(map[string]string, len(f.headers))
		for name, values := range f.headers {
			if name = strings.ToLower(name); !HoldsCredential(name) { // what expressions find is kept
				f.shown[name] = strings.Join(values, ", ")
			}
		}
	}
	slots := make(map[string]any, len(f.s.Slots))
	for name, slot := range f.s.Slots {
		var v any
		if json.Unmarshal(slot.Value, &v) == nil {
			slots[name] = v
		}
	}
	entities := f.s.Entities
	if entities == nil {
		entities = map[string][]string{}
	}
	return map[string]any{
		"text": f.text, "slots": slots, "entities": entities, "state": f.s.State, "intent": f.s.Intent,
		"headers": f.shown, "event": f.event,
	}
}

func (e *Expression) eval(f *facts) (ref.Val, error) {
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	out, _, err := e.program.ContextEval(ctx, f.vars(e))
	return out, err
}

// holds says whether the expression is true.
func (e *Expression) holds(f *facts) (bool, error) {
	v, err := e.eval(f)
	if err != nil {
		return false, err
	}
	yes, ok := v.Value().(bool)
	if !ok {
		return false, errors.New("the expression gave no truth value")
	}
	return yes, nil
}

// value is what the expression gives, as JSON; nil for null and for an optional that is empty.
func (e *Expression) value(f *facts) (json.RawMessage, error) {
	v, err := e.eval(f)
	if err != nil {
		return nil, err
	}
	if o, ok := v.(*types.Optional); ok {
		if !o.HasValue() {
			return nil, nil
		}
		v = o.GetValue()
	}
	if v == types.NullValue {
		return nil, nil
	}
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, errors.New("the expression gave a value that JSON does not have")
	}
	// protojson puts spaces at random between tokens, so that nobody relies on them.
	return json.Marshal(native.(*structpb.Value).AsInterface())
}

// Rule finds something in what is said. Pattern or Expression is set, and at most one of Slot, Entity and Intent.
type Rule struct {
	Name                 string
	From                 Speaker
	Pattern              *regexp.Regexp
	Expression           *Expression
	Slot, Entity, Intent string
}

// found is what rules or a model have found; it is applied to whatever session is there when it is written.
type found struct {
	intent   string
	slots    []foundSlot
	entities []foundEntity
}

type foundSlot struct {
	name string
	Slot
}

type foundEntity struct{ kind, value string }

func (f *found) empty() bool { return f.intent == "" && len(f.slots) == 0 && len(f.entities) == 0 }

// apply writes what was found; it says how many slots there was no room for.
func (f *found) apply(s *Session) (over int) {
	if f.intent != "" {
		s.Intent = f.intent
	}
	for i := range f.slots {
		if !s.setSlot(f.slots[i].name, f.slots[i].Slot) {
			over++
		}
	}
	for _, e := range f.entities {
		s.addEntity(e.kind, e.value)
	}
	return over
}

// run asks one rule.
func (r *Rule) run(f *facts, at Slot) (out found, err error) {
	set := func(v json.RawMessage) {
		if r.Slot != "" {
			at.Value = v
			out.slots = append(out.slots, foundSlot{r.Slot, at})
			return
		}
		for _, text := range words(v) {
			out.entities = append(out.entities, foundEntity{r.Entity, text})
		}
	}
	if r.Expression != nil {
		if r.Intent != "" {
			yes, err := r.Expression.holds(f)
			if yes {
				out.intent = r.Intent
			}
			return out, err
		}
		v, err := r.Expression.value(f)
		if v != nil {
			set(v)
		}
		return out, err
	}
	if r.Entity != "" { // there may be several
		for _, m := range r.Pattern.FindAllStringSubmatch(f.text, maxEntityValues) {
			set(quoted(r.pick(m)))
		}
		return out, nil
	}
	m := r.Pattern.FindStringSubmatch(f.text)
	switch {
	case m == nil:
	case r.Intent != "":
		out.intent = r.Intent
	case r.Slot != "":
		set(quoted(r.pick(m)))
	default:
		for i, name := range r.Pattern.SubexpNames() {
			if name != "" && m[i] != "" {
				at.Value = quoted(m[i])
				out.slots = append(out.slots, foundSlot{name, at})
			}
		}
	}
	return out, nil
}

// pick is the value of a match: the group "value", else the first, else all of it.
func (r *Rule) pick(m []string) string {
	if i := r.Pattern.SubexpIndex("value"); i > 0 {
		return m[i]
	}
	if len(m) > 1 {
		return m[1]
	}
	return m[0]
}

func quoted(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always can
	return b
}

// words are the values of an entity: a string, a number or a boolean, or a list of them.
func words(v json.RawMessage) (out []string) {
	var list []any
	if json.Unmarshal(v, &list) != nil {
		var one any
		if json.Unmarshal(v, &one) != nil {
			return nil
		}
		list = []any{one}
	}
	for _, e := range list {
		switch e := e.(type) {
		case string:
			out = append(out, e)
		case float64, bool:
			b, _ := json.Marshal(e)
			out = append(out, string(b))
		}
	}
	return out
}
