package files

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const testKey = "hunter2-key-of-at-least-32-characters"

func testEnv(name string) (string, bool) {
	switch name {
	case "WEIR_TEST_KEY", "KEY":
		return testKey, true
	case "WEIR_TEST_EMPTY":
		return " ", true
	}
	return "", false
}

// wanted is a problem that a comment of a test file asks for.
type wanted struct {
	file, field, message string
	line                 int
}

var (
	wantHere = regexp.MustCompile(`# want ([^ ]*): (.*)$`)
	wantAt   = regexp.MustCompile(`# want-at (\d+) ([^ ]*): (.*)$`)
)

func readWanted(t *testing.T, dir string) []wanted {
	t.Helper()
	var out []wanted
	paths, err := filepath.Glob(filepath.Join(dir, "*.y*ml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range strings.Split(string(raw), "\n") {
			if m := wantHere.FindStringSubmatch(l); m != nil {
				// Where a comment cannot end (an empty field), the regular expression leaves a colon.
				out = append(out, wanted{filepath.Base(path), strings.TrimSuffix(m[1], ":"), m[2], i + 1})
			} else if m := wantAt.FindStringSubmatch(l); m != nil {
				line, _ := strconv.Atoi(m[1])
				out = append(out, wanted{filepath.Base(path), m[2], m[3], line})
			}
		}
	}
	return out
}

// Every rule and every important part of the schema of every kind, each with the line and field that must be
// named: the comments of testdata/invalid.
func TestLoadInvalid(t *testing.T) {
	const dir = "testdata/invalid"
	want := readWanted(t, dir)
	if len(want) < 80 {
		t.Fatalf("only %d expectations found in %s", len(want), dir)
	}
	_, problems := Load(dir, testEnv)
	used := make([]bool, len(problems))
	for _, w := range want {
		found := false
		for i, p := range problems {
			if !used[i] && p.File == w.file && p.Line == w.line && p.Field == w.field && strings.Contains(p.Message, w.message) {
				used[i], found = true, true
				break
			}
		}
		if !found {
			t.Errorf("no problem %s:%d: %s: ...%s...", w.file, w.line, w.field, w.message)
		}
	}
	for i, p := range problems {
		if !used[i] {
			t.Errorf("unexpected: %s", p)
		}
		if strings.Contains(p.String(), "hunter2") {
			t.Errorf("prints a secret: %s", p)
		}
	}
}

// The reading of a valid folder: defaults, order, origins, references.
func TestLoadValid(t *testing.T) {
	objects, problems := Load("testdata/valid", testEnv)
	for _, p := range problems {
		t.Errorf("unexpected: %s", p)
	}
	var b strings.Builder
	for _, obj := range objects.All() {
		ref := source.RefOf(obj)
		raw, err := yaml.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		origin := objects.Origins[ref]
		fmt.Fprintf(&b, "--- # %s at %s:%d\n%s", ref, origin.File, origin.Line, raw)
	}
	golden(t, "testdata/valid.golden.yaml", b.String())

	for key, want := range map[source.SecretKey]string{
		source.SecretKeyOf("default", v1alpha1.SecretRef{Env: "WEIR_TEST_KEY", Key: "value"}):                    testKey,
		source.SecretKeyOf("default", *objects.APIKeys[0].Spec.SecretRef):                                        "hunter2-app-key",
		source.SecretKeyOf("prod", objects.Gateways[1].Spec.Listeners[1].TLS.PrivateKeyRef):                      "test value of tls.key",
		source.SecretKeyOf("prod", objects.Gateways[1].Spec.Listeners[1].TLS.CertificateRef):                     "test value of tls.crt",
		source.SecretKeyOf("default", *objects.Backends[1].Spec.TLS.CARef):                                       "test value of ca.pem",
		source.FileKeyOf(objects.JWTIssuers[0].Spec.Keys.File):                                                   `{"keys": []}`,
		source.SecretKeyOf("default", v1alpha1.SecretRef{File: filepath.Join("testdata/valid/secrets/app.key")}): "hunter2-app-key",
	} {
		if got := objects.Secrets[key].Reveal(); got != want {
			t.Errorf("secret at %s: got %q, want %q", key, got, want)
		}
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update and read the diff); got:\n%s", path, got)
	}
}

func TestLoadIsDeterministic(t *testing.T) {
	first, _ := Load("testdata/valid", testEnv)
	second, _ := Load("testdata/valid", testEnv)
	a, err := first.Hash()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := second.Hash(); a != b {
		t.Error("two readings of one folder have different hashes")
	}
	other, _ := Load("testdata/valid", func(name string) (string, bool) { return "another" + testKey, true })
	if b, _ := other.Hash(); a == b {
		t.Error("another secret has the same hash")
	}
}

// Every kind that has a schema can be read.
func TestEverySchemaHasAType(t *testing.T) {
	validator, err := newLoader(".", testEnv).validator()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range validator.Kinds() {
		if _, ok := source.NewObject(k.Kind); !ok {
			t.Errorf("kind %s has a schema and no place among the objects", k.Kind)
		}
	}
}

func TestLocate(t *testing.T) {
	objects, _ := Load("testdata/valid", testEnv)
	route := objects.Origins[source.ObjectRef{Kind: "Route", Namespace: "default", Name: "chat"}]
	backend := objects.Origins[source.ObjectRef{Kind: "Backend", Namespace: "default", Name: "pool"}]
	for _, tc := range []struct {
		origin *source.Origin
		path   string
		line   int
	}{
		{route, "", 1},
		{route, "spec", 5},
		{route, "spec.rules[0].backends[1].weight", 17},
		{route, "spec.rules[0].backends[1].model", 16},          // not written: the backend's line
		{route, "spec.rules[0].backends[7].weight", 13},         // no such backend: the list's line
		{route, "spec.rules[1].backends[0].weight", 15},         // through a merge, where it is written
		{route, "spec.rules[1].name", 20},                       // not the merged one
		{route, "spec.rules[0].matches[0].headers[0].name", 11}, // flow style
		{route, "nonsense[", 1},
		{backend, "", 13},
		{backend, "spec.endpoints[1].weight", 18},
		{backend, "metadata.name", 15},
		{nil, "spec", 0},
	} {
		if got := tc.origin.Locate(tc.path); got != tc.line {
			t.Errorf("Locate(%q) = %d, want %d", tc.path, got, tc.line)
		}
	}
}

// Merges that multiply: every path through them is tried for a field that is not there.
func TestLocateEnds(t *testing.T) {
	doc := "a0: &a0 {x: 1}\n"
	for i := 1; i <= 40; i++ {
		doc += fmt.Sprintf("a%d: &a%d {<<: [*a%d, *a%d]}\n", i, i, i-1, i-1)
	}
	docs, errs := parseFile("a.yaml", []byte(doc))
	if len(errs) > 0 || len(docs) != 1 {
		t.Fatal(errs)
	}
	if got := locate(docs[0], "a40.nothing"); got != 41 {
		t.Errorf("got line %d", got)
	}
}

// write puts files below a new folder; a value that starts with "->" is a symbolic link.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		put(t, dir, name, content)
	}
	return dir
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if target, isLink := strings.CutPrefix(content, "->"); isLink {
		err = os.Symlink(target, path)
	} else {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func consumer(name, tenant string) string {
	return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata:\n  name: %s\nspec:\n  tenant: %s\n", name, tenant)
}

func withSecret(name, file string) string {
	return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata:\n  name: %s\nspec:\n  consumer: a\n  secretRef:\n    file: %s\n", name, file)
}

// Files that are no documents, and folders that are no plain folders.
func TestLoadFiles(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for _, tc := range []struct {
		name    string
		files   map[string]string
		objects int
		want    []string // the problems; each a part, in order
	}{
		{"nothing", nil, 0, []string{"no documents found: put *.yaml"}},
		{"only comments", map[string]string{"a.yaml": "# nothing\n---\n# here\n"}, 0, []string{"no documents found"}},
		{"empty", map[string]string{"a.yaml": "", "b.yaml": consumer("b", "t")}, 1, []string{"a.yaml: " + emptyFile}},
		{"white space", map[string]string{"a.yml": "\xef\xbb\xbf \r\n\n", "b.json": "\n\t", "c.yaml": "---\n"}, 0,
			[]string{"a.yml: " + emptyFile, "b.json: " + emptyFile, "c.yaml: " + emptyFile}},
		{"comments beside objects", map[string]string{"a.yaml": "# later\n", "b.yaml": consumer("b", "t")}, 1, nil},
		{"other files", map[string]string{"README.md": "x", "a.yaml.bak": "["}, 0, []string{"no documents found"}},
		{"hidden", map[string]string{".a.yaml": consumer("a", "t"), ".git/b.yaml": consumer("b", "t")}, 0, []string{"no documents found"}},
		{"byte order mark and CRLF", map[string]string{"a.yaml": "\xef\xbb\xbf" + strings.ReplaceAll(consumer("a", "t"), "\n", "\r\n")}, 1, nil},
		{"sub-folders and endings", map[string]string{"x/y/a.yaml": consumer("a", "t"), "b.yml": consumer("b", "t"), "c.json": `{"apiVersion":"weir.dev/v1alpha1","kind":"Consumer","metadata":{"name":"c"},"spec":{}}`}, 3, nil},
		{"two JSON documents", map[string]string{"a.json": "{}\n{}\n"}, 0, []string{"a.json:1: kind: required", "a.json:2: kind: required"}},
		{"duplicate over files", map[string]string{"a.yaml": consumer("a", "t"), "b.yaml": "\n" + consumer("a", "u")}, 1,
			[]string{"b.yaml:2: Consumer default/a: defined twice: the first is at a.yaml:1"}},
		{"not UTF-8", map[string]string{"a.yaml": "kind: Consumer\nname: caf\xe9\n"}, 0, []string{"a.yaml:2: the file is not UTF-8"}},
		{"UTF-16", map[string]string{"a.yaml": "\xff\xfek\x00"}, 0, []string{"a.yaml:1: the file is not UTF-8"}},
		{"tab", map[string]string{"a.yaml": "kind: Consumer\nmetadata:\n\tname: a\n"}, 0, []string{"a.yaml:3: not valid YAML: the line is indented with a tab: use spaces"}},
		{"unclosed", map[string]string{"a.yaml": "kind: [a\nb: c\n"}, 0, []string{"a.yaml:1: not valid YAML: did not find expected ',' or ']'"}},
		{"wrong indentation", map[string]string{"a.yaml": "a:\n  b: 1\n  c:\n    d: 1\n   e: 2\nf: 1\n"}, 0, []string{"a.yaml:5: not valid YAML: did not find expected key"}},
		{"unclosed quote", map[string]string{"a.yaml": "a: 1\nb: \"x\nc: 1\n"}, 0, []string{"a.yaml:2: not valid YAML: found unexpected end of stream"}},
		{"first line", map[string]string{"a.yaml": "a: b: c\n"}, 0, []string{"a.yaml:1: not valid YAML: mapping values are not allowed"}},
		{"unknown anchor", map[string]string{"a.yaml": "\n\na: *x\n"}, 0, []string{"a.yaml:3: not valid YAML: unknown anchor 'x' referenced"}},
		{"good before bad", map[string]string{"a.yaml": consumer("a", "t") + "---\n}\n"}, 1, []string{"a.yaml:8: not valid YAML"}},
		{"broken JSON", map[string]string{"a.json": "{\n\"a\": [1,\n}"}, 0, []string{"a.json:3: not valid JSON: invalid character '}'"}},
		{"short JSON", map[string]string{"a.json": "{\n\"a\": [1"}, 0, []string{"a.json:2: not valid JSON: the document ends too early"}},
		{"deep JSON", map[string]string{"a.json": strings.Repeat("[", 5000)}, 0, []string{"a.json:1: not valid JSON: nested more than 1000 levels"}},
		{"deep YAML", map[string]string{"a.yaml": strings.Repeat("[", 50000)}, 0, []string{"a.yaml:1: not valid YAML: exceeded max depth"}},
		{"JSON key twice", map[string]string{"a.json": "{\"a\": 1,\n\"a\": 2}"}, 0, []string{`a.json:2: a: the key "a" is already set on line 1`}},
		{"alias bomb", map[string]string{"a.yaml": bomb}, 0, []string{"expand to more than 100000 values"}},
		{"huge", map[string]string{"a.yaml": "# " + strings.Repeat("x", maxFileBytes)}, 0, []string{"a.yaml: the file cannot be read: larger than 16384 KiB"}},
		{"aliases", map[string]string{"a.yaml": strings.Replace(consumer("a", "&t acme"), "tenant:", "labels: {x: *t}\n  tenant:", 1)}, 0, []string{"unknown anchor 't'"}},
		{"dead link", map[string]string{"a.yaml": "->nowhere", "b.yaml": consumer("b", "t")}, 1, []string{"a.yaml: the link leads nowhere: no such file"}},
		{"a folder named like a file", map[string]string{"a.yaml/b.yaml": consumer("b", "t")}, 1, nil},
		{"one file, two names", map[string]string{"a.yaml": consumer("a", "t"), "b.yaml": "->a.yaml"}, 1, nil},
		{"circle of folders", map[string]string{"x/a.yaml": consumer("a", "t"), "x/y": "->../x", "z": "->."}, 1, nil},
		{"ConfigMap", map[string]string{
			"..2026_01_31.1/a.yaml": consumer("a", "t"), "..2026_01_31.1/b.yaml": consumer("b", "t"), "..data": "->..2026_01_31.1",
			"a.yaml": "->..data/a.yaml", "b.yaml": "->..data/b.yaml"}, 2, nil},
		{"secret is a folder", map[string]string{"a.yaml": withSecret("a", "s"), "s/x": ""}, 1, []string{"spec.secretRef.file: the file", "cannot be read: not a regular file"}},
		{"huge secret", map[string]string{"a.yaml": withSecret("a", "s"), "s": strings.Repeat("x", reading.MaxValueBytes+1)}, 1, []string{"larger than 1024 KiB"}},
		{"objects of others", map[string]string{"a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: prod}\ndata: {key: hunter2, key: !!binary x}\n---\n" + consumer("a", "t") +
			"---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\n", "kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n"}, 1,
			[]string{"a.yaml:1: Secret prod/keys: warning: left out: its apiVersion v1 is not one of Weir's\n",
				"a.yaml:13: ReferenceGrant g: warning: left out: its apiVersion gateway.networking.k8s.io/v1beta1 is not", "kustomization.yaml:1: Kustomization: warning: left out"}},
		{"lists with objects of others", map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: s}}\n- " + strings.ReplaceAll(strings.TrimSpace(consumer("a", "t")), "\n", "\n  ") +
			"\n- {apiVersion: example.com/v1, kind: BlockList, metadata: {name: b}}\n---\napiVersion: v1\nkind: SecretList\nitems: [{data: {key: hunter2}}]\n"}, 1,
			[]string{"a.yaml:4: Service s: warning: left out", "a.yaml:11: BlockList b: warning: left out", "a.yaml:13: SecretList: warning: left out"}},
		{"groups that are misspelt", map[string]string{"a.yaml": "apiVersion: wier.dev/v1alpha1\nkind: Consumer\n---\napiVersion: v1alpha1\nkind: Consumer\n---\napiVersion: /v1\nkind: Pod\n---\napiVersion: apps/v1\n---\napiVersion: v1\nkind: Route\n---\napiVersion: Weir.dev/v1alpha1\nkind: Deployment\n"}, 0,
			[]string{`a.yaml:1: Consumer: apiVersion: unsupported value: "wier.dev/v1alpha1"`, `a.yaml:4: Consumer: apiVersion: unsupported value: "v1alpha1"`, `a.yaml:7: Pod: apiVersion: unsupported`,
				"a.yaml:10: kind: required", `a.yaml:12: Route: apiVersion: unsupported value: "v1"`, "a.yaml:15: Deployment: apiVersion: unsupported"}},
		{"secrets of two folders", map[string]string{"a/a.yaml": withSecret("a", "s"), "b/b.yaml": withSecret("b", "s"), "a/s": "one", "b/s": "two"}, 2, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects, problems := Load(write(t, tc.files), testEnv)
			if objects.Len() != tc.objects {
				t.Errorf("got %d objects, want %d", objects.Len(), tc.objects)
			}
			var all []string
			for _, p := range problems {
				all = append(all, p.String())
			}
			got := strings.Join(all, "\n")
			rest := got
			for _, w := range tc.want {
				_, after, ok := strings.Cut(rest, w)
				if !ok {
					t.Fatalf("no %q in order in:\n%s", w, got)
				}
				rest = after
			}
			if len(tc.want) == 0 && got != "" || strings.Contains(got, "hunter2") {
				t.Errorf("unexpected: %s", got)
			}
		})
	}
}

const emptyFile = "the file is empty: delete it to remove its objects, or write them"

// issuer is a JWTIssuer whose keys are in a file.
func issuer(file, more string) string {
	return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: JWTIssuer\nmetadata:\n  name: j\n%sspec:\n  issuer: i\n  audiences: [a]\n  keys:\n    file: %s\n", more, file)
}

// Files beside the documents that look like some, and are values that objects name.
func TestLoadNamedFiles(t *testing.T) {
	const keySet = `{"keys": []}`
	const hint = "this looks like a key set (JWKS): name it in a JWTIssuer's spec.keys.file"
	for _, tc := range []struct {
		name    string
		files   map[string]string
		objects int
		want    []string // the problems, a part of each
	}{
		{"named", map[string]string{"a.yaml": issuer("jwks.json", ""), "jwks.json": keySet}, 1, nil},
		{"named from a sub-folder", map[string]string{"x/a.yaml": issuer("../jwks.json", ""), "jwks.json": keySet}, 1, nil},
		{"named in a list", map[string]string{"jwks.json": keySet,
			"a.yaml": "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(issuer("jwks.json", "")), "\n", "\n  ") + "\n"}, 1, nil},
		{"a secret", map[string]string{"a.yaml": withSecret("a", "key.yaml"), "key.yaml": "hunter2: [\n"}, 1, nil},
		{"behind a link", map[string]string{"a.yaml": issuer("jwks.json", ""), "jwks.json": "->..data/jwks.json", "..data/jwks.json": keySet}, 1, nil},
		{"under another name", map[string]string{"a.yaml": issuer(".keys", ""), ".keys": "->jwks.json", "jwks.json": keySet}, 1, nil},
		{"not named", map[string]string{"a.yaml": consumer("a", "t"), "jwks.json": keySet}, 1, []string{"jwks.json:1: kind: required, but missing; known kinds", hint}},
		{"another one is named", map[string]string{"a.yaml": issuer("x/jwks.json", ""), "x/jwks.json": keySet, "jwks.json": keySet}, 1, []string{"jwks.json:1: kind: required"}},
		{"no key set, not named", map[string]string{"a.json": `{"keys": 1}`}, 0, []string{"a.json:1: kind: required"}},
		{"named by what is left out", map[string]string{"jwks.json": keySet, "b.yaml": consumer("b", "t"),
			"a.yaml": issuer("jwks.json", "  annotations: {weir.dev/when-env: WEIR_TEST_UNSET}\n")}, 1, nil},
		{"named by what is invalid", map[string]string{"a.yaml": issuer("jwks.json", "") + "  nonsense: 1\n", "jwks.json": keySet}, 0, []string{"unknown field"}},
		{"empty", map[string]string{"a.yaml": issuer("jwks.json", ""), "jwks.json": ""}, 1, []string{"spec.keys.file: the file"}},
		{"a file of objects is one whoever names it", map[string]string{"a.yaml": withSecret("a", "b.yaml"), "b.yaml": consumer("b", "t") + "  nonsense: 1\n"}, 1,
			[]string{"b.yaml:7: Consumer default/b: spec.nonsense: unknown field"}},
		{"a file that names itself", map[string]string{"a.yaml": withSecret("a", "a.yaml") + "  nonsense: 1\n---\n" + consumer("b", "t")}, 1, []string{"unknown field"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects, problems := Load(write(t, tc.files), testEnv)
			if objects.Len() != tc.objects {
				t.Errorf("got %d objects, want %d", objects.Len(), tc.objects)
			}
			got := fmt.Sprint(problems)
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in %s", w, got)
				}
			}
			if len(problems) != min(len(tc.want), 1) {
				t.Errorf("got %d problems: %s", len(problems), got)
			}
			if strings.Contains(got, hint) != (tc.name == "not named" || tc.name == "another one is named") {
				t.Errorf("the hint: %s", got)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("prints a secret: %s", got)
			}
		})
	}
}

func TestLoadSecretsOfTwoFolders(t *testing.T) {
	objects, _ := Load(write(t, map[string]string{
		"a/a.yaml": withSecret("a", "s"), "b/b.yaml": withSecret("b", "s"), "a/s": "one", "b/s": "two\n"}), testEnv)
	for i, want := range []string{"one", "two"} {
		if got := objects.Secrets[source.SecretKeyOf("default", *objects.APIKeys[i].Spec.SecretRef)].Reveal(); got != want {
			t.Errorf("key %d: got %q, want %q", i, got, want)
		}
	}
}

func TestLoadNoFolder(t *testing.T) {
	_, problems := Load(filepath.Join(t.TempDir(), "nowhere"), testEnv)
	if len(problems) != 1 || !strings.Contains(problems[0].String(), "the folder does not exist") {
		t.Errorf("got %v", problems)
	}
}

func TestLoadSingleFile(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": consumer("a", "t"), "b.yaml": consumer("b", "t")})
	objects, problems := Load(filepath.Join(dir, "b.yaml"), testEnv)
	if len(problems) > 0 || objects.Len() != 1 || objects.Consumers[0].Name != "b" {
		t.Errorf("got %d objects, %v", objects.Len(), problems)
	}
}

// Whatever prints the objects, or what a source says about them, shows no secret.
func TestSecretsAreNeverPrinted(t *testing.T) {
	objects, problems := Load("testdata/valid", testEnv)
	if len(objects.Secrets) == 0 {
		t.Fatal("no secrets were loaded")
	}
	type outer struct{ inner *source.Objects }
	asJSON, err := json.Marshal(map[string]any{"secrets": secretList(objects), "routes": objects.Routes, "keys": objects.APIKeys})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{
		string(asJSON), fmt.Sprint(problems),
		fmt.Sprintf("%v %+v %#v %s %q %x", objects.Secrets, objects.Secrets, objects.Secrets, objects.Secrets, objects.Secrets, objects.Secrets),
		fmt.Sprintf("%v %+v %#v", outer{objects}, *objects, outer{objects}),
	} {
		for _, secret := range []string{"hunter2", "test value", fmt.Sprintf("%x", "hunter2")} {
			if strings.Contains(printed, secret) {
				t.Errorf("%q is printed in %.300s", secret, printed)
			}
		}
	}
}

func secretList(o *source.Objects) []source.Secret {
	var out []source.Secret
	for _, s := range o.Secrets {
		out = append(out, s)
	}
	return out
}

// FuzzDocuments: whatever bytes a file holds, reading it ends, panics nowhere, and names a line that exists.
func FuzzDocuments(f *testing.F) {
	for _, pattern := range []string{"testdata/invalid/*.y*ml", "testdata/valid/*.json", "testdata/valid/*.yaml", "testdata/valid/*/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, p := range paths {
			raw, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, strings.HasSuffix(p, ".json"))
		}
	}
	f.Add([]byte("a: &a\n  b: *a\n<<: *a\n? *a\n: x"), false)
	f.Add([]byte(`{"a":[1e400,"\ud800",{"a":null}]}`), true)
	l := newLoader(".", testEnv)
	f.Fuzz(func(t *testing.T, raw []byte, asJSON bool) {
		name := "fuzz.yaml"
		if asJSON {
			name = "fuzz.json"
		}
		lines := strings.Count(string(raw), "\n") + strings.Count(string(raw), "\r") + 2
		r := l.loadBytes(name, raw)
		for _, p := range r.problems {
			if p.Line < 0 || p.Line > lines || p.Message == "" {
				t.Errorf("%d lines, problem %+v", lines, p)
			}
		}
		for _, obj := range r.objects.All() {
			if r.objects.Origins[source.RefOf(obj)] == nil {
				t.Errorf("%s has no origin", source.RefOf(obj))
			}
		}
	})
}
