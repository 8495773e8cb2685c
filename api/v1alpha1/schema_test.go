package v1alpha1_test

import (
	"bufio"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	crds "github.com/weir-dev/weir/deploy/crds"
)

var update = flag.Bool("update", false, "rewrite testdata/schema.txt")

// schemaFile is what was promised: a line for each field of each kind.
const schemaFile = "testdata/schema.txt"

// field is what a client can rely on of one field.
type field struct {
	kind     string // string, integer, object, list, map...
	required bool
	def      string   // JSON; "" without
	enum     []string // sorted; nil: any value
}

// String is a line of the file, after the field's path.
func (f field) String() string {
	s := f.kind
	if f.required {
		s += " required"
	}
	if f.def != "" {
		s += " default=" + f.def
	}
	if f.enum != nil {
		s += " enum=" + strings.Join(f.enum, "|")
	}
	return s
}

// fieldsOf lists every field below a schema, by "Kind version path".
func fieldsOf(at string, s *apiextensionsv1.JSONSchemaProps, out map[string]field) {
	for name, p := range s.Properties {
		path := at + "." + name
		if strings.HasSuffix(at, " ") {
			path = at + name
		}
		f := field{kind: kindOf(&p), required: slices.Contains(s.Required, name)}
		if p.Default != nil {
			f.def = string(p.Default.Raw)
		}
		for _, e := range p.Enum {
			f.enum = append(f.enum, strings.Trim(string(e.Raw), `"`))
		}
		slices.Sort(f.enum)
		out[path] = f
		below(path, &p, out)
	}
}

func below(path string, s *apiextensionsv1.JSONSchemaProps, out map[string]field) {
	switch {
	case s.Items != nil && s.Items.Schema != nil:
		below(path+"[]", s.Items.Schema, out)
	case s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil:
		below(path+"{}", s.AdditionalProperties.Schema, out)
	default:
		fieldsOf(path, s, out)
	}
}

func kindOf(s *apiextensionsv1.JSONSchemaProps) string {
	switch {
	case s.XIntOrString:
		return "integer-or-string"
	case s.Items != nil && s.Items.Schema != nil:
		return "list-of-" + kindOf(s.Items.Schema)
	case s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil:
		return "map-of-" + kindOf(s.AdditionalProperties.Schema)
	case s.Format != "":
		return s.Type + ":" + s.Format
	}
	return s.Type
}

// served reads the fields of everything that is served.
func served(t *testing.T) map[string]field {
	t.Helper()
	files, err := fs.Glob(crds.FS, "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions: %v", err)
	}
	out := map[string]field{}
	for _, name := range files {
		raw, err := fs.ReadFile(crds.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		var d apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(raw, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, v := range d.Spec.Versions {
			if v.Served {
				fieldsOf(d.Spec.Names.Kind+" "+v.Name+" ", v.Schema.OpenAPIV3Schema, out)
			}
		}
	}
	return out
}

func write(fields map[string]field) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(&b, "%s %s\n", path, fields[path])
	}
	return b.String()
}

func parse(text string) (map[string]field, error) {
	out := map[string]field{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), " ", 5)
		if len(words) < 4 {
			return nil, fmt.Errorf("%q has no kind, version, path and type", lines.Text())
		}
		f := field{kind: words[3]}
		if len(words) == 5 {
			rest := words[4]
			if rest, f.required = strings.CutPrefix(rest, "required"); f.required {
				rest = strings.TrimPrefix(rest, " ")
			}
			if before, enum, found := strings.Cut(rest, "enum="); found {
				rest, f.enum = strings.TrimSuffix(before, " "), strings.Split(enum, "|")
			}
			f.def = strings.TrimPrefix(rest, "default=")
		}
		out[strings.Join(words[:3], " ")] = f
	}
	return out, lines.Err()
}

// change is a difference between what was promised and what is served.
type change struct {
	text     string
	breaking bool
}

// changesOf compares by the rules of docs/api-versioning.md.
func changesOf(promised, served map[string]field) (out []change) {
	all := maps.Clone(promised)
	maps.Copy(all, served)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		old, was := promised[path]
		now, is := served[path]
		add := func(breaking bool, format string, args ...any) {
			out = append(out, change{path + ": " + fmt.Sprintf(format, args...), breaking})
		}
		switch {
		case !is:
			add(true, "the field is gone")
			continue
		case !was:
			// A required field of a new parent breaks nobody; of one that was there, every object that exists.
			breaking := now.required && now.def == "" && parentWas(path, promised)
			add(breaking, "a new field, %s", now)
			continue
		}
		if old.kind != now.kind {
			add(true, "%s has become %s", old.kind, now.kind)
		}
		if old.required != now.required {
			add(now.required, "required has become %v", now.required)
		}
		if old.def != now.def {
			add(true, "the default %q has become %q: objects that do not set the field mean something else", old.def, now.def)
		}
		if slices.Equal(old.enum, now.enum) {
			continue
		}
		gone := slices.DeleteFunc(slices.Clone(old.enum), func(v string) bool { return slices.Contains(now.enum, v) })
		breaking := len(gone) > 0 && now.enum != nil || old.enum == nil
		add(breaking, "the values %q have become %q", old.enum, now.enum)
	}
	return out
}

// parentWas says whether the object that has the field was there before.
func parentWas(path string, promised map[string]field) bool {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		for known := range promised {
			if strings.HasPrefix(known, path[:strings.LastIndexByte(path, ' ')+1]) {
				return true
			}
		}
		return false
	}
	_, was := promised[strings.TrimRight(path[:i], "[]{}")]
	return was
}

// TestSchemaKeepsItsPromises: what is served is what schema.txt says, so that no field goes unnoticed.
func TestSchemaKeepsItsPromises(t *testing.T) {
	now := served(t)
	if *update {
		if err := os.WriteFile(schemaFile, []byte(write(now)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	raw, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatalf("%v; make it with -update", err)
	}
	promised, err := parse(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changesOf(promised, now) {
		if c.breaking {
			t.Errorf("BREAKING: %s. Objects that exist would be refused, or mean something else: see docs/api-versioning.md for what to do instead", c.text)
		} else {
			t.Errorf("compatible: %s. Run with -update and commit %s", c.text, schemaFile)
		}
	}
	if got := write(now); !t.Failed() && got != string(raw) {
		t.Errorf("%s is not as it would be written; run with -update", schemaFile)
	}
}

// TestSchemaOfEveryKind: kubectl shows of every kind whether it works, and Weir alone writes status.
func TestSchemaOfEveryKind(t *testing.T) {
	files, err := fs.Glob(crds.FS, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shortNames := map[string]string{}
	for _, name := range files {
		raw, err := fs.ReadFile(crds.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		var d apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(raw, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kind := d.Spec.Names.Kind
		if !slices.Equal(d.Spec.Names.Categories, []string{"weir"}) || d.Spec.Scope != apiextensionsv1.NamespaceScoped {
			t.Errorf("%s: categories %q, scope %s", kind, d.Spec.Names.Categories, d.Spec.Scope)
		}
		for _, s := range d.Spec.Names.ShortNames {
			if other := shortNames[s]; other != "" {
				t.Errorf("%s and %s are both %s", kind, other, s)
			}
			shortNames[s] = kind
		}
		for _, v := range d.Spec.Versions {
			if v.Subresources == nil || v.Subresources.Status == nil {
				t.Errorf("%s %s has no status subresource", kind, v.Name)
			}
			var columns []string
			for _, c := range v.AdditionalPrinterColumns {
				columns = append(columns, c.Name)
			}
			if n := len(columns); n < 3 || !slices.Equal(columns[n-3:], []string{"Accepted", "Programmed", "Age"}) {
				t.Errorf("%s %s has the columns %q", kind, v.Name, columns)
			}
		}
		if len(d.Spec.Versions) == 1 && !d.Spec.Versions[0].Storage {
			t.Errorf("%s is not stored", kind)
		}
	}
}

// TestChanges has every kind of change, and whether it breaks somebody.
func TestChanges(t *testing.T) {
	const before = `A v1 spec object required
A v1 spec.list list-of-object
A v1 spec.list[].id integer required
A v1 spec.mode string default="x" enum=x|y
A v1 spec.name string
`
	for _, c := range []struct {
		name, after, want string
		breaking          bool
	}{
		{"nothing", before, "", false},
		{"gone", strings.Replace(before, "A v1 spec.name string\n", "", 1), "A v1 spec.name: the field is gone", true},
		{"type", strings.Replace(before, "id integer", "id string", 1), "integer has become string", true},
		{"required", strings.Replace(before, "name string", "name string required", 1), "required has become true", true},
		{"optional", strings.Replace(before, "integer required", "integer", 1), "required has become false", false},
		{"default", strings.Replace(before, `"x"`, `"y"`, 1), "the default", true},
		{"value gone", strings.Replace(before, "x|y", "x", 1), "have become", true},
		{"value new", strings.Replace(before, "x|y", "x|y|z", 1), "have become", false},
		{"values no longer free", strings.Replace(before, "name string", "name string enum=a", 1), "have become", true},
		{"new", before + "A v1 spec.other string\n", "a new field, string", false},
		{"new and required", before + "A v1 spec.list[].other string required\n", "a new field, string required", true},
		{"new kind", before + "B v1 spec object required\n", "a new field, object required", false},
		{"new parent with a required field", before + "A v1 spec.part object\nA v1 spec.part.id string required\n", "a new field", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, err := parse(before)
			if err != nil {
				t.Fatal(err)
			}
			now, err := parse(c.after)
			if err != nil {
				t.Fatal(err)
			}
			if got := write(old); got != before {
				t.Fatalf("read and written it is\n%s", got)
			}
			changes := changesOf(old, now)
			if c.want == "" {
				if len(changes) > 0 {
					t.Fatalf("got %v", changes)
				}
				return
			}
			if len(changes) == 0 || !strings.Contains(changes[0].text, c.want) {
				t.Fatalf("got %v, want %q", changes, c.want)
			}
			if breaking := slices.ContainsFunc(changes, func(c change) bool { return c.breaking }); breaking != c.breaking {
				t.Errorf("breaking is %v: %v", breaking, changes)
			}
		})
	}
}
