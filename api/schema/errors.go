package schema

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// unknownField says that a field does not exist, and which one was probably meant.
func unknownField(path string, candidates []string) *field.Error {
	key, _ := lastKey(path)
	detail := "unknown field"
	if near := nearest(key, candidates); near != "" {
		detail += fmt.Sprintf("; did you mean %q?", near)
	}
	return &field.Error{Type: field.ErrorTypeForbidden, Field: path, Detail: detail}
}

func (v *Validator) unknownKind(apiVersion, kind string) *field.Error {
	if kind == "" {
		return field.Required(field.NewPath("kind"), "known kinds: "+v.kindNames())
	}
	if apiVersion == "" {
		return field.Required(field.NewPath("apiVersion"), "known: "+strings.Join(v.apiVersions(), ", "))
	}
	if !slices.Contains(v.apiVersions(), apiVersion) {
		return &field.Error{Type: field.ErrorTypeNotSupported, Field: "apiVersion", BadValue: apiVersion,
			Detail: "known: " + strings.Join(v.apiVersions(), ", ")}
	}
	var names []string
	for _, k := range v.names {
		names = append(names, k.Kind)
	}
	detail := "known kinds: " + v.kindNames()
	if near := nearest(kind, names); near != "" {
		detail = fmt.Sprintf("did you mean %q? %s", near, detail)
	}
	return &field.Error{Type: field.ErrorTypeNotSupported, Field: "kind", BadValue: kind, Detail: detail}
}

// groupMistakes is how many wrong letters make a group of Weir's, misspelt, and not one of somebody else's.
const groupMistakes = 2

// Foreign says whether an object is of an API group that is not Weir's: of Kubernetes itself, or of somebody else. What may be an object of Weir's
// whose apiVersion is wrong is none: without a group, of a group that is misspelt, or of the core group with a kind that Weir alone has.
func (v *Validator) Foreign(apiVersion, kind string) bool {
	group, version, grouped := strings.Cut(apiVersion, "/")
	if kind == "" || grouped && (group == "" || version == "") || !grouped && (apiVersion != "v1" || kind == "List") {
		return false
	}
	return !slices.ContainsFunc(v.names, func(k Kind) bool {
		own, _, _ := strings.Cut(k.APIVersion, "/")
		return grouped && editDistance(strings.ToLower(group), own) <= groupMistakes || !grouped && kind == k.Kind
	})
}

func (v *Validator) kindNames() string {
	var names []string
	for _, k := range v.names {
		names = append(names, k.Kind)
	}
	return strings.Join(slices.Compact(names), ", ")
}

func (v *Validator) apiVersions() []string {
	var out []string
	for _, k := range v.names {
		out = append(out, k.APIVersion)
	}
	sort.Strings(out)
	return slices.Compact(out)
}

// lastKey splits "spec.rules[0].backend" into "backend" and "spec.rules[0]".
func lastKey(path string) (key, parent string) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return path, ""
	}
	return path[i+1:], path[:i]
}

// structuralCandidates are the fields that exist where path's last key does not.
func structuralCandidates(s *structuralschema.Structural, path string) []string {
	_, rest := lastKey(path)
	for s != nil && rest != "" {
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil
			}
			rest, s = strings.TrimPrefix(rest[end+1:], "."), s.Items
			continue
		}
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		child, ok := s.Properties[rest[:end]]
		if !ok {
			return nil
		}
		rest, s = strings.TrimPrefix(rest[end:], "."), &child
	}
	if s == nil {
		return nil
	}
	var names []string
	for name := range s.Properties {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// nearest returns the candidate that a typing mistake explains, or "".
func nearest(name string, candidates []string) string {
	best, bestDistance := "", len(name)/3+1 // a third of the letters may be wrong, and at least one
	for _, c := range candidates {
		if strings.EqualFold(c, name) {
			return c
		}
		if d := editDistance(strings.ToLower(name), strings.ToLower(c)); d <= bestDistance && (best == "" || d < bestDistance) && d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts the letters to insert, delete, replace or swap with a neighbour to make b of a.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b)) // no field has such a name
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

// secretish are the fields whose value may be a secret that was written in the wrong place, or may hold
// user information (url).
var secretish = []string{"hash", "secretRef", "caRef", "certificateRef", "privateKeyRef", "credential", "url"}

// tidy sorts errs, says what is hard to read in words, removes doubles, and removes values that should not be printed.
func tidy(errs field.ErrorList, s *structuralschema.Structural, obj map[string]any) field.ErrorList {
	for _, e := range errs {
		placeFormatError(e)
	}
	errs = reword(errs, s, obj)
	for _, e := range errs {
		nameDuplicate(e)
		e.Detail = strings.TrimPrefix(e.Detail, e.Field+" in body ")
		e.Detail = strings.TrimPrefix(e.Detail, "in body ")
		if e.Type == field.ErrorTypeTypeInvalid || !printable(e) {
			e.BadValue = field.OmitValueType{}
		}
	}
	sort.SliceStable(errs, func(i, j int) bool { return errs[i].Field < errs[j].Field })
	// One wrong type of a field can be told twice, in different words.
	return slices.CompactFunc(errs, func(a, b *field.Error) bool {
		return a.Field == b.Field && a.Type == b.Type && (a.Detail == b.Detail || a.Type == field.ErrorTypeTypeInvalid)
	})
}

// placeFormatError gives the library's error of a number that does not fit its format (int32) the field that it
// names only in its text: "Checked value must be of type integer with format int32 in spec.port".
func placeFormatError(e *field.Error) {
	rest, ok := strings.CutPrefix(e.Detail, "Checked value must be of type ")
	if !ok {
		return
	}
	if i := strings.LastIndex(rest, " in "); i >= 0 {
		e.Type, e.Field, e.Detail = field.ErrorTypeTypeInvalid, strings.TrimPrefix(rest[i+len(" in "):], "."), "must be of type "+rest[:i]
	}
}

// nameDuplicate says which key two items of a list share.
func nameDuplicate(e *field.Error) {
	keys, ok := e.BadValue.(map[string]any)
	if e.Type != field.ErrorTypeDuplicate || !ok || len(keys) != 1 {
		return
	}
	for key, value := range keys {
		e.BadValue = field.OmitValueType{}
		e.Detail = fmt.Sprintf("an item before it has the same %s, %q: give each its own", key, fmt.Sprint(value))
	}
}

func printable(e *field.Error) bool {
	switch v := e.BadValue.(type) {
	case map[string]any:
		if e.Type != field.ErrorTypeDuplicate { // there it holds the keys of the list alone
			return false
		}
	case string:
		if len(v) > 256 || strings.Contains(v, "@") && strings.HasPrefix(e.Field, "spec.sharedState.redis.addresses[") { // a password, in a URL
			return false
		}
	case int64, int, int32, float64, bool:
	default:
		return false
	}
	for _, key := range strings.FieldsFunc(e.Field, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		if slices.Contains(secretish, key) {
			return false
		}
	}
	return true
}
