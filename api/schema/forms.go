package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// form is how a value is written, for people who do not read regular expressions.
type form struct {
	words string
	// hint says what to write instead of a value that is often written; "" where it does not know. The value is a
	// string, or a number where the form wants a string.
	hint func(value any) string
}

const (
	durationPattern = `^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	quantityPattern = `^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$`
	pricePattern    = `^[0-9]{1,7}(\.[0-9]{1,9})?$`
	timePattern     = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	addressPattern  = `^(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]@]+):[0-9]{1,5}$`
)

// formOf is the form that a pattern of the definitions stands for. Patterns that are not here are shown as they are.
func formOf(pattern string) (form, bool) {
	switch pattern {
	case durationPattern:
		return form{"write a length of time in whole hours, minutes, seconds or milliseconds: 250ms, 30s, 5m, 1h30m", durationHint}, true
	case quantityPattern:
		return form{`write a number, with a decimal point where it needs one, and k, M or G (or Ki, Mi, Gi) for many: 500, 400k, "12.50"`, quantityHint}, true
	case pricePattern:
		return form{`write an amount in quotes, with a decimal point and at most 9 decimals: "2.50"`, priceHint}, true
	case timePattern:
		return form{"write a day and a time as in 2026-11-01T00:00:00Z", timeHint}, true
	case addressPattern:
		return form{"write host:port alone, such as redis.example:6379 or [2001:db8::1]:6379", addressHint}, true
	case `^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`, `^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`:
		return form{"write lower-case letters, digits and -, such as team-a", nil}, true
	case `^[A-Za-z_][A-Za-z0-9_]*$`:
		return form{"write the name of an environment variable, such as OPENAI_API_KEY", nil}, true
	case `^[A-Z]{3}$`:
		return form{"write a currency in three capitals, such as USD", nil}, true
	case `^(hmac-)?sha256:[0-9a-f]{64}$`:
		return form{`write "sha256:" or "hmac-sha256:" and 64 lower-case hexadecimal digits; "weir keys hash" makes one`, nil}, true
	case `^[A-Za-z][A-Za-z0-9_+/-]*$`:
		return form{"write the name of a time zone, such as Europe/Berlin", nil}, true
	}
	return form{}, false
}

var days = regexp.MustCompile(`^([0-9]{1,3})(d|w)$`)

func durationHint(value any) string {
	switch v := value.(type) {
	case int64:
		if v >= 0 && v < 1e5 {
			return fmt.Sprintf("write %ds", v)
		}
	case string:
		if m := days.FindStringSubmatch(v); m != nil {
			n, _ := strconv.Atoi(m[1])
			if m[2] == "w" {
				n *= 7
			}
			return fmt.Sprintf("write %dh: the units are h, m, s and ms", 24*n)
		}
		if strings.HasPrefix(v, "-") {
			return "it cannot be negative"
		}
		if n, err := strconv.ParseUint(v, 10, 16); err == nil {
			return fmt.Sprintf("write %ds", n)
		}
	}
	return ""
}

// decimal says that s is a number and nothing else.
func decimal(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && strings.Trim(s, "0123456789.") == ""
}

func quantityHint(value any) string {
	switch v := value.(type) {
	case float64:
		return inQuotes(v)
	case string:
		if point := strings.Replace(v, ",", ".", 1); point != v && decimal(point) {
			return fmt.Sprintf("write %q", point)
		}
		if n, ok := strings.CutSuffix(v, "K"); ok && decimal(n) {
			return fmt.Sprintf("write %sk (a thousand of it) or %[1]sKi (1024)", n)
		}
		for _, suffix := range []string{"KB", "MB", "GB", "KiB", "MiB", "GiB"} {
			if n, ok := strings.CutSuffix(v, suffix); ok && decimal(n) {
				return fmt.Sprintf("write %s%si", n, suffix[:1])
			}
		}
	}
	return ""
}

func priceHint(value any) string {
	switch v := value.(type) {
	case int64:
		return fmt.Sprintf("write it in quotes: %q", strconv.FormatInt(v, 10))
	case float64:
		return inQuotes(v)
	case string:
		if point := strings.Replace(v, ",", ".", 1); point != v && decimal(point) {
			return fmt.Sprintf("write %q", point)
		}
	}
	return ""
}

// inQuotes writes money with the two decimals it is usually given: YAML has dropped the last one of 12.50.
func inQuotes(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if whole, fraction, ok := strings.Cut(s, "."); ok && len(fraction) == 1 {
		s = whole + "." + fraction + "0"
	}
	return fmt.Sprintf("write it in quotes: %q", s)
}

var day = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)

func timeHint(value any) string {
	if v, ok := value.(string); ok && day.MatchString(v) {
		return "write " + v + "T00:00:00Z: a day needs a time"
	}
	return ""
}

func addressHint(value any) string {
	v, _ := value.(string)
	scheme, rest, ok := strings.Cut(v, "://")
	switch {
	case strings.Contains(v, "@"):
		return "a password is given by passwordRef"
	case ok && scheme == "rediss":
		return "leave out rediss:// and set tls"
	case ok:
		return "leave out " + scheme + "://"
	case rest == "" && v != "" && !strings.ContainsAny(v, ":/"):
		return "the port is missing"
	}
	return ""
}

// reword says in words what form the value of a field must have, once for each field. The library says it as a regular
// expression, or as types, and a rule that cannot read the value says it again.
func reword(errs field.ErrorList, s *structuralschema.Structural, obj map[string]any) field.ErrorList {
	told := map[string]bool{}
	for _, e := range errs {
		node := structuralAt(s, e.Field)
		if node == nil || told[e.Field] {
			continue
		}
		pattern := ""
		if node.ValueValidation != nil {
			pattern = node.ValueValidation.Pattern
		}
		if node.XIntOrString { // the pattern stands in one of two alternatives, or only in the library
			pattern = quantityPattern
		}
		f, known := formOf(pattern)
		if !known || !strings.Contains(e.Detail, "should match '") && !strings.Contains(e.Detail, "must be of type ") {
			continue
		}
		told[e.Field] = true
		value := valueAt(obj, e.Field)
		words := f.words
		if f.hint != nil {
			switch hint := f.hint(value); {
			case strings.HasPrefix(hint, "write "): // that says it all
				words = hint
			case hint != "":
				words = hint + "; " + words
			}
		}
		*e = field.Error{Type: field.ErrorTypeInvalid, Field: e.Field, BadValue: value, Detail: words}
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		if told[e.Field] && (e.Type == field.ErrorTypeInvalid || e.Type == field.ErrorTypeTypeInvalid) {
			again := seen[e.Field]
			seen[e.Field] = true
			return again
		}
		// Of a number that is neither integer nor string the library also says that no alternative fits, without a field.
		name, alternatives := strings.CutSuffix(e.Detail, `" must validate at least one schema (anyOf)`)
		return alternatives && told[strings.TrimPrefix(name, `"`)]
	})
}

// structuralAt is the schema of the value at path; nil where it has none.
func structuralAt(s *structuralschema.Structural, path string) *structuralschema.Structural {
	for s != nil && path != "" {
		key, rest, index := step(path)
		if index {
			s = s.Items
		} else if child, ok := s.Properties[key]; ok {
			s = &child
		} else {
			return nil
		}
		path = rest
	}
	return s
}

// valueAt is the value of obj at path; nil where there is none.
func valueAt(obj any, path string) any {
	for path != "" {
		key, rest, index := step(path)
		if index {
			list, _ := obj.([]any)
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(list) {
				return nil
			}
			obj = list[i]
		} else {
			members, _ := obj.(map[string]any)
			obj = members[key]
		}
		path = rest
	}
	return obj
}

// step takes the first key or index off a path such as "spec.limits[0].window".
func step(path string) (key, rest string, index bool) {
	if path[0] == '[' {
		key, rest, _ = strings.Cut(path[1:], "]")
		return key, strings.TrimPrefix(rest, "."), true
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, "", false
	}
	return path[:end], strings.TrimPrefix(path[end:], "."), false
}
