package shape

import (
	"regexp"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
)

// Anything allows every value.
func Anything() *Type { return &Type{Kinds: jsontree.Any, Loose: true} }

// String allows any string.
func String() *Type { return &Type{Kinds: jsontree.Str} }

// Text allows strings of min to max runes; max 0 means no bound.
func Text(min, max int) *Type { return &Type{Kinds: jsontree.Str, MinLen: min, MaxLen: max} }

// Match allows strings that match a pattern.
func Match(pattern string) *Type {
	return &Type{Kinds: jsontree.Str, Pattern: regexp.MustCompile(pattern)}
}

// Enum allows the listed strings.
func Enum(values ...string) *Type { return &Type{Kinds: jsontree.Str, Enum: values} }

// Bool allows true and false.
func Bool() *Type { return &Type{Kinds: jsontree.Bool} }

// Int allows integers from low to high.
func Int(low, high float64) *Type { return &Type{Kinds: jsontree.Int, Low: &low, High: &high} }

// AtLeast allows integers from low up.
func AtLeast(low float64) *Type { return &Type{Kinds: jsontree.Int, Low: &low} }

// Number allows numbers from low to high.
func Number(low, high float64) *Type { return &Type{Kinds: jsontree.Num, Low: &low, High: &high} }

// List allows lists of at least min items of one type.
func List(item *Type, min int) *Type {
	return &Type{Kinds: jsontree.Arr, Items: item, MinItems: min}
}

// ListOf allows lists of min to max items of one type.
func ListOf(item *Type, min, max int) *Type {
	return &Type{Kinds: jsontree.Arr, Items: item, MinItems: min, MaxItems: max}
}

// Object allows objects with exactly these members.
func Object(fields ...Field) *Type { return &Type{Kinds: jsontree.Obj, Fields: fields} }

// Loose allows objects with these members and any others.
func Loose(fields ...Field) *Type { return &Type{Kinds: jsontree.Obj, Fields: fields, Loose: true} }

// Map allows objects whose members are all of one type; max 0 means no bound.
func Map(value *Type, max int) *Type {
	return &Type{Kinds: jsontree.Obj, Values: value, MaxMembers: max}
}

// Tagged allows objects whose shape is chosen by the string in the member tag.
func Tagged(tag string, variants map[string]*Type) *Type {
	return &Type{Kinds: jsontree.Obj, Tag: tag, Variants: variants}
}

// Either allows what a or b allows. Their kinds must differ: limits of different kinds do not meet.
func Either(a, b *Type) *Type {
	if a.Kinds&b.Kinds != 0 {
		panic("shape: Either needs types of different kinds")
	}
	u := *a
	u.Kinds |= b.Kinds
	if b.Kinds&jsontree.Str != 0 {
		u.Enum, u.Pattern, u.MinLen, u.MaxLen = b.Enum, b.Pattern, b.MinLen, b.MaxLen
	}
	if b.Kinds&(jsontree.Int|jsontree.Num) != 0 {
		u.Low, u.High, u.LowOpen, u.HighOpen = b.Low, b.High, b.LowOpen, b.HighOpen
	}
	if b.Kinds&jsontree.Arr != 0 {
		u.Items, u.MinItems, u.MaxItems = b.Items, b.MinItems, b.MaxItems
	}
	if b.Kinds&jsontree.Obj != 0 {
		u.Fields, u.Loose, u.Values, u.MaxMembers = b.Fields, b.Loose, b.Values, b.MaxMembers
		u.Tag, u.Variants, u.Other = b.Tag, b.Variants, b.Other
	}
	return &u
}

// Need is a member that must be there.
func Need(name string, t *Type) Field { return Field{Name: name, Type: t, Required: true} }

// May is a member that may be there.
func May(name string, t *Type) Field { return Field{Name: name, Type: t} }
