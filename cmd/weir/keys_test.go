package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

const keysFolder = `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: gateway}
spec:
  listeners: [{name: http, address: 127.0.0.1, port: 8443}]
GATEWAY---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: openai}
spec: {dialect: openai, url: "https://api.openai.com/v1"}
---
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: all}
spec: {rules: [{backends: [{name: openai}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: app}
spec: {tenant: acme}
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: app, namespace: prod}
spec: {}
`

// keysDir writes a folder; gateway is added to the gateway's spec.
func keysDir(t *testing.T, gateway string) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "base.yaml", strings.Replace(keysFolder, "GATEWAY", gateway, 1))
	return dir
}

func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func slurp(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keys runs `weir keys` with its two outputs apart.
func keys(args ...string) (stdout, stderr string, err error) {
	c := root()
	var out, errs bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetIn(strings.NewReader("a-key-of-some-length\n"))
	c.SetArgs(append([]string{"keys"}, args...))
	err = c.Execute()
	return out.String(), errs.String(), err
}

func mustKeys(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := keys(args...)
	if err != nil {
		t.Fatalf("weir keys %q: %v\n%s", args, err, errs)
	}
	if key := strings.TrimSpace(out); strings.HasPrefix(key, "weir_") && strings.Contains(errs, key) {
		t.Errorf("the key is on standard error as well: %s", errs)
	}
	return strings.TrimSuffix(out, "\n")
}

// caller authenticates with what a folder says now.
func caller(t *testing.T, dir, key string, now time.Time) (*identity.Identity, int) {
	t.Helper()
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	objs, problems := files.Load(dir, os.LookupEnv)
	v, problems := compileAll(compile.NewCompiler(), objs, problems, compileOptions(dialects, identity.Offline{}))
	if source.HasErrors(problems) {
		t.Fatal(problems)
	}
	var h identity.Headers
	h.Add("x-api-key", key)
	id, cerr := v.Table.Auth.Authenticate(t.Context(), h, netip.MustParseAddr("10.1.2.3"), now)
	if cerr != nil {
		return nil, cerr.HTTPStatus()
	}
	return id, 200
}

var keyForm = regexp.MustCompile(`^weir_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}$`)

// TestKeysInFolder: the life of a key in documents.
func TestKeysInFolder(t *testing.T) {
	dir := keysDir(t, "")
	now := time.Now()
	key := mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app", "--expires", "30d", "--models", "gpt-*,o1", "--cidrs", "10.0.0.0/8", "--rpm", "60", "--scopes", "chat")
	if !keyForm.MatchString(key) {
		t.Fatalf("key %q", key)
	}
	file := filepath.Join(dir, "keys", "bot.yaml")
	doc := slurp(t, file)
	if strings.Contains(doc, key) || strings.Contains(doc, key[14:]) || !strings.Contains(doc, "prefix: "+key[:13]) || !strings.Contains(doc, "hash: "+identity.HashKey(key)) {
		t.Errorf("document\n%s", doc)
	}
	id, status := caller(t, dir, key, now)
	if status != 200 || id.KeyID != "default/key:bot" || id.Tenant != "acme" || id.RequestsPerMinute != 60 || id.KeyPrefix != key[:13] || !id.MayUse("gpt-5") || id.MayUse("claude") {
		t.Fatalf("%d %+v", status, id)
	}
	if _, status := caller(t, dir, key, now.Add(31*24*time.Hour)); status != 401 {
		t.Errorf("after its end: %d", status)
	}

	if _, _, err := keys("create", "bot", "-f", dir, "--consumer", "app"); err == nil || !strings.Contains(err.Error(), "rotate") {
		t.Errorf("a second key of the name: %v", err)
	}
	if _, _, err := keys("rotate", "bot", "-f", dir); err == nil || !strings.Contains(err.Error(), "--expires") {
		t.Errorf("a successor that never ends, unasked: %v", err)
	}
	next := mustKeys(t, "rotate", "bot", "-f", dir, "--grace", "1h", "--expires", "30d")
	for at, want := range map[time.Duration][2]int{0: {200, 200}, 59 * time.Minute: {200, 200}, 61 * time.Minute: {401, 200}} {
		_, old := caller(t, dir, key, now.Add(at))
		id, young := caller(t, dir, next, now.Add(at))
		if [2]int{old, young} != want || id.KeyID != "default/key:bot-2" || id.RequestsPerMinute != 60 || id.MayUse("claude") {
			t.Errorf("after %v: old %d, new %d %+v", at, old, young, id)
		}
	}
	third := mustKeys(t, "rotate", "bot-2", "-f", dir, "--grace", "0s", "--expires", "never")
	if _, status := caller(t, dir, next, time.Now().Add(time.Second)); status != 401 {
		t.Errorf("without grace: %d", status)
	}
	if _, status := caller(t, dir, third, now.Add(1000*time.Hour)); status != 200 {
		t.Errorf("the third key: %d", status)
	}

	mustKeys(t, "revoke", "bot-3", "-f", dir)
	mustKeys(t, "revoke", "bot-3", "-f", dir) // again is no error
	if _, status := caller(t, dir, third, now); status != 401 {
		t.Errorf("revoked: %d", status)
	}
	if _, _, err := keys("rotate", "bot-3", "-f", dir); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("a successor of a disabled key: %v", err)
	}
	mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app", "--namespace", "prod")

	table := mustKeys(t, "list", "-f", dir)
	for _, want := range []string{
		`(?m)^NAMESPACE +NAME +CONSUMER +PREFIX +STATE +EXPIRES +LIMITS +IN$`,
		`(?m)^default +bot +app +` + key[:13] + ` +active +20\S+Z +60/min; models gpt-\*,o1; from 10.0.0.0/8 +\S+/keys/bot.yaml$`,
		`(?m)^default +bot-2 .* expired .*`, `(?m)^default +bot-3 .* disabled +never .*`, `(?m)^prod +bot +app .* active +never +- +\S+/keys/prod.bot.yaml$`,
	} {
		if !regexp.MustCompile(want).MatchString(table) {
			t.Errorf("the table\n%s\nhas no line %s", table, want)
		}
	}
	var rows []keyRow
	if err := json.Unmarshal([]byte(mustKeys(t, "list", "-f", dir, "--json")), &rows); err != nil || len(rows) != 4 || rows[2].State != "disabled" {
		t.Errorf("%+v, %v", rows, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "keys", ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestKeysCreateRefuses: nothing is written for a key that would not work.
func TestKeysCreateRefuses(t *testing.T) {
	dir := keysDir(t, "")
	for _, c := range []struct{ args, says string }{
		{"k", "--consumer"}, {"k --consumer nobody", "no Consumer default/nobody"}, {"k --consumer app --namespace test", "no Consumer test/app"},
		{"k --consumer app --expires yesterday", "--expires"}, {"k --consumer app --expires 2020-01-01T00:00:00Z", "ended already"},
		{"k --consumer app --expires 0s", "ended already"}, {"k --consumer app --cidrs 10.0.0.1", "no network"},
		{"k --consumer app --rpm -1", "--rpm"}, {"k --consumer app --rpm 0", "--rpm 0"}, {"k --consumer app --expires 2020-01-01", "ended already"}, {"UPPER --consumer app", "metadata.name"}, {"../k --consumer app", "metadata.name"},
		{"k --consumer app --scopes=", ""}, {"k --consumer app --models gpt*,gpt*", "allowedModels"}, {"--consumer app", "arg"}, {"a b --consumer app", "arg"},
	} {
		out, _, err := keys(append([]string{"create", "-f", dir}, strings.Fields(c.args)...)...)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.args, err)
			}
			if err := os.Remove(filepath.Join(dir, "keys", "k.yaml")); err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || out != "" {
			t.Errorf("%s: %q, %v; want %q", c.args, out, err, c.says)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "keys", "*")); len(left) > 0 {
		t.Errorf("written: %v", left)
	}
	for _, c := range [][]string{{"revoke", "nobody", "-f", dir}, {"rotate", "nobody", "-f", dir}} {
		if _, _, err := keys(c...); err == nil || !strings.Contains(err.Error(), "no key default/nobody") {
			t.Errorf("%v: %v", c, err)
		}
	}
	if _, _, err := keys("list", "-f", t.TempDir()); err == nil || !strings.Contains(err.Error(), "no LLMGateway") {
		t.Errorf("an empty folder: %v", err)
	}
	put(t, dir, "taken.yaml", "# taken\n")
	if _, _, err := keys("create", "k", "-f", dir, "--consumer", "app", "--out", filepath.Join(dir, "taken.yaml")); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("over another file: %v", err)
	}
	elsewhere := filepath.Join(t.TempDir(), "sub", "k.yaml")
	_, errs, err := keys("create", "k", "-f", dir, "--consumer", "app", "--out", elsewhere)
	if err != nil || !strings.Contains(errs, "is not below") {
		t.Errorf("outside of the folder: %s, %v", errs, err)
	}
}

// TestKeysWithPepper: where the gateway has a pepper, keys are hashed with it, and without it they are no good.
func TestKeysWithPepper(t *testing.T) {
	dir := keysDir(t, "  authentication: {keyPepperRef: {file: secrets/pepper}}\n")
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o755); err != nil {
		t.Fatal(err)
	}
	pepper := put(t, dir, "secrets/pepper", "a pepper of at least thirty-two bytes\n")
	key := mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app")
	if doc := slurp(t, filepath.Join(dir, "keys", "bot.yaml")); !strings.Contains(doc, "hash: hmac-sha256:") {
		t.Errorf("document\n%s", doc)
	}
	if _, status := caller(t, dir, key, time.Now()); status != 200 {
		t.Errorf("status %d", status)
	}
	p, err := identity.NewPepper([]byte("a pepper of at least thirty-two bytes"))
	if err != nil {
		t.Fatal(err)
	}
	if got := mustKeys(t, "hash", "-f", dir); got != p.HashKey("a-key-of-some-length") {
		t.Errorf("keys hash: %s", got)
	}
	if got := mustKeys(t, "hash"); got != identity.HashKey("a-key-of-some-length") {
		t.Errorf("keys hash without a folder: %s", got)
	}
	put(t, dir, "secrets/pepper", "another pepper of at least thirty-two bytes")
	if _, status := caller(t, dir, key, time.Now()); status != 401 {
		t.Errorf("with another pepper: %d", status)
	}
	put(t, dir, "secrets/pepper", "short pepper")
	_, _, err = keys("create", "other", "-f", dir, "--consumer", "app")
	if err == nil || !strings.Contains(err.Error(), "12 bytes") || strings.Contains(err.Error(), "short pepper") {
		t.Errorf("a short pepper: %v", err)
	}
	os.Remove(pepper)
	if _, errs, err := keys("create", "other", "-f", dir, "--consumer", "app"); err == nil || !strings.Contains(err.Error(), "keyPepperRef") || !strings.Contains(errs, "has errors") {
		t.Errorf("no pepper: %v\n%s", err, errs)
	}
}

// TestKeysRevokeWhateverIsWrong: a folder with errors is no obstacle, and is mentioned.
func TestKeysRevokeWhateverIsWrong(t *testing.T) {
	dir := keysDir(t, "")
	mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app")
	put(t, dir, "wrong.yaml", "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: x}\nspec: {dialect: 5}\n")
	_, errs, err := keys("revoke", "bot", "-f", dir)
	if err != nil || !strings.Contains(errs, "takes no change over until") || !strings.Contains(slurp(t, filepath.Join(dir, "keys", "bot.yaml")), "disabled: true") {
		t.Errorf("%v\n%s", err, errs)
	}
}

// TestKeysInRedis: the life of a key in Redis, as a replica sees it.
func TestKeysInRedis(t *testing.T) {
	srv := redistest.Start(t)
	dir := keysDir(t, fmt.Sprintf("  authentication: {keyStore: Redis}\n  sharedState: {redis: {addresses: [%q], keyPrefix: mine}}\n", srv.Addr))
	put(t, dir, "file-key.yaml", "apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: in-file}\nspec: {consumer: app, hash: '"+identity.HashKey("x")+"'}\n")
	key := mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app", "--rpm", "5")
	if left, _ := filepath.Glob(filepath.Join(dir, "keys", "*")); len(left) > 0 {
		t.Errorf("written to the folder: %v", left)
	}
	store := keystore.Open(srv.Client(), "mine")
	got, err := store.Get(t.Context(), "default", "bot")
	if err != nil || got.Hash != identity.HashKey(key) || got.Prefix != key[:13] || got.RequestsPerMinute != 5 || got.Created.IsZero() {
		t.Fatalf("%+v, %v", got.Record, err)
	}
	for _, name := range []string{"bot", "in-file"} {
		if _, _, err := keys("create", name, "-f", dir, "--consumer", "app"); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("a second %s: %v", name, err)
		}
	}
	next := mustKeys(t, "rotate", "bot", "-f", dir, "--grace", "1h")
	old, _ := store.Get(t.Context(), "default", "bot")
	young, err := store.Get(t.Context(), "default", "bot-2")
	if left := time.Until(old.ExpiresAt); err != nil || left <= 0 || left > time.Hour || young.Hash != identity.HashKey(next) || young.RequestsPerMinute != 5 {
		t.Errorf("old %+v, young %+v, %v", old.Record, young.Record, err)
	}
	mustKeys(t, "revoke", "bot-2", "-f", dir)
	mustKeys(t, "revoke", "bot-2", "-f", dir)
	if young, _ = store.Get(t.Context(), "default", "bot-2"); !young.Disabled {
		t.Errorf("%+v", young.Record)
	}
	table := mustKeys(t, "list", "-f", dir)
	for _, want := range []string{`(?m)^default +bot +app .* active +20.* 5/min +Redis$`, `(?m)^default +bot-2 .* disabled .* Redis$`, `(?m)^default +in-file .* active .*file-key.yaml$`} {
		if !regexp.MustCompile(want).MatchString(table) {
			t.Errorf("the table\n%s\nhas no line %s", table, want)
		}
	}
	// What is a document is revoked in its document.
	mustKeys(t, "revoke", "in-file", "-f", dir)
	if doc := slurp(t, filepath.Join(dir, "file-key.yaml")); !strings.Contains(doc, "spec: {disabled: true, consumer: app") {
		t.Errorf("document\n%s", doc)
	}
	if _, _, err := keys("revoke", "nobody", "-f", dir); err == nil || !strings.Contains(err.Error(), "no key default/nobody") {
		t.Errorf("%v", err)
	}
	if _, _, err := keys("create", "x", "-f", dir, "--consumer", "app", "--out", "x.yaml"); err == nil || !strings.Contains(err.Error(), "Redis") {
		t.Errorf("%v", err)
	}
	srv.Kill()
	if out, _, err := keys("create", "lost", "-f", dir, "--consumer", "app"); err == nil || out != "" {
		t.Errorf("a key that could not be stored is printed: %q, %v", out, err)
	}
}

// TestSetSpecField: only the field changes, however the document is written.
func TestSetSpecField(t *testing.T) {
	const head = "apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata:\n  name: a\n"
	for name, c := range map[string]struct {
		before, after string // after "": refused
		field         string
		value         any
	}{
		"block":        {head + "spec:\n  # whose\n  consumer: x # c\n  hash: h\n", head + "spec:\n  # whose\n  disabled: true\n  consumer: x # c\n  hash: h\n", "disabled", true},
		"deep indent":  {head + "spec:\n      consumer: x\n      hash: h\n", head + "spec:\n      disabled: true\n      consumer: x\n      hash: h\n", "disabled", true},
		"flow":         {head + "spec: {consumer: x, hash: h}\n", head + "spec: {disabled: true, consumer: x, hash: h}\n", "disabled", true},
		"is false":     {head + "spec:\n  consumer: x\n  disabled: false # yet\n", head + "spec:\n  consumer: x\n  disabled: true # yet\n", "disabled", true},
		"is true":      {head + "spec:\n  consumer: x\n  disabled: true\n", head + "spec:\n  consumer: x\n  disabled: true\n", "disabled", true},
		"quoted time":  {head + "spec:\n  expiresAt: \"2027-01-01T00:00:00Z\"\n", head + "spec:\n  expiresAt: \"2026-01-01T00:00:00Z\"\n", "expiresAt", "2026-01-01T00:00:00Z"},
		"single quote": {head + "spec:\n  expiresAt: '2027-01-01T00:00:00Z'\n", head + "spec:\n  expiresAt: \"2026-01-01T00:00:00Z\"\n", "expiresAt", "2026-01-01T00:00:00Z"},
		"plain time":   {head + "spec:\n  expiresAt: 2027-01-01T00:00:00Z\n", head + "spec:\n  expiresAt: \"2026-01-01T00:00:00Z\"\n", "expiresAt", "2026-01-01T00:00:00Z"},
		"CRLF":         {strings.ReplaceAll(head, "\n", "\r\n") + "spec:\r\n  consumer: x\r\n", strings.ReplaceAll(head, "\n", "\r\n") + "spec:\r\n  disabled: true\r\n  consumer: x\r\n", "disabled", true},
		"not the first": {"kind: APIKey\nmetadata: {name: b}\nspec: {consumer: é}\n---\n" + head + "spec:\n  consumer: x\n---\nkind: Consumer\nmetadata: {name: a}\nspec: {}\n",
			"kind: APIKey\nmetadata: {name: b}\nspec: {consumer: é}\n---\n" + head + "spec:\n  disabled: true\n  consumer: x\n---\nkind: Consumer\nmetadata: {name: a}\nspec: {}\n", "disabled", true},
		"in a list": {"apiVersion: v1\nkind: List\nitems:\n  - kind: APIKey\n    metadata: {name: a}\n    spec:\n      consumer: ü\n",
			"apiVersion: v1\nkind: List\nitems:\n  - kind: APIKey\n    metadata: {name: a}\n    spec:\n      disabled: true\n      consumer: ü\n", "disabled", true},
		"JSON":              {`{"kind": "APIKey", "metadata": {"name": "a"}, "spec": {"consumer": "x"}}`, `{"kind": "APIKey", "metadata": {"name": "a"}, "spec": {"disabled": true, "consumer": "x"}}`, "disabled", true},
		"JSON, is there":    {`{"kind": "APIKey", "metadata": {"name": "a"}, "spec": {"disabled": false}}`, `{"kind": "APIKey", "metadata": {"name": "a"}, "spec": {"disabled": true}}`, "disabled", true},
		"after wide text":   {"kind: APIKey\nmetadata: {name: a, labels: {x: 模型}}\nspec: {consumer: x}\n", "kind: APIKey\nmetadata: {name: a, labels: {x: 模型}}\nspec: {disabled: true, consumer: x}\n", "disabled", true},
		"same line, wide":   {"{kind: APIKey, metadata: {name: a, labels: {x: 模型}}, spec: {\"consumer\": x}}\n", "{kind: APIKey, metadata: {name: a, labels: {x: 模型}}, spec: {\"disabled\": true, \"consumer\": x}}\n", "disabled", true},
		"byte order mark":   {"\ufeffkind: APIKey\nmetadata: {name: a}\nspec: {consumer: x}\n", "\ufeffkind: APIKey\nmetadata: {name: a}\nspec: {disabled: true, consumer: x}\n", "disabled", true},
		"spec by an anchor": {"kind: APIKey\nmetadata: {name: a}\nx: &s {consumer: x}\nspec: *s\n", "", "disabled", true},
		"folded value":      {head + "spec:\n  expiresAt: >-\n    2027-01-01T00:00:00Z\n", "", "expiresAt", "2026-01-01T00:00:00Z"},
		"escaped value":     {head + "spec:\n  expiresAt: \"2027\\u002d01-01T00:00:00Z\"\n", "", "expiresAt", "2026-01-01T00:00:00Z"},
		"no spec":           {head, "", "disabled", true},
		"twice":             {head + "spec: {consumer: x}\n---\n" + head + "spec: {consumer: y}\n", "", "disabled", true},
		"another namespace": {"kind: APIKey\nmetadata: {name: a, namespace: b}\nspec: {consumer: x}\n", "", "disabled", true},
		"broken":            {head + "spec: {", "", "disabled", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := setSpecField([]byte(c.before), "default", "a", c.field, c.value)
			if c.after == "" {
				if err == nil {
					t.Errorf("made\n%s", got)
				}
				return
			}
			if err != nil || string(got) != c.after {
				t.Errorf("got\n%s\nwant\n%s\n%v", got, c.after, err)
			}
		})
	}
}

// FuzzSetSpecField: whatever is there, what comes out holds the field and nothing else changes, or there is an error.
func FuzzSetSpecField(f *testing.F) {
	f.Add("kind: APIKey\nmetadata: {name: a}\nspec:\n  consumer: x\n")
	f.Add(`{"kind": "APIKey", "metadata": {"name": "a"}, "spec": {"disabled": false, "x": [1, {"y": "\n"}]}}`)
	f.Add("kind: APIKey\nmetadata:\n  name: a\nspec:\n  ? consumer\n  : x\n")
	f.Add("- kind: APIKey\n  metadata: {name: &n a}\n  spec: {<<: {a: *n}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := setSpecField([]byte(text), "default", "a", "disabled", true)
		if err != nil {
			return
		}
		docs, err := readDocuments(out)
		if err != nil {
			t.Fatalf("what was made cannot be read: %v\n%s", err, out)
		}
		spec, err := findSpec(docs, "default", "a")
		if err != nil || valueOf(spec, "disabled") == nil || valueOf(spec, "disabled").Value != "true" {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestReplaceFile: permissions and links stay.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	real := put(t, dir, "real.yaml", "kind: APIKey\nmetadata: {name: a}\nspec: {consumer: x}\n")
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := editKey(link, "default", "a", "disabled", true); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	if info, _ := os.Stat(real); info.Mode().Perm() != 0o640 || !strings.Contains(slurp(t, real), "disabled: true") {
		t.Errorf("mode %v, content %s", info.Mode(), slurp(t, real))
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	for in, want := range map[string]string{
		"": "", "never": "", "90d": "2026-05-30T12:00:00Z", "12h": "2026-03-02T00:00:00Z", "1d12h": "2026-03-03T00:00:00Z",
		"2027-01-31T12:00:00+02:00": "2027-01-31T10:00:00Z", "60000d": "2126-02-05T12:00:00Z", "2030-01-01": "2030-01-01T00:00:00Z",
	} {
		at, err := parseExpiry(in, now)
		got := ""
		if !at.IsZero() {
			got = at.Format(time.RFC3339)
		}
		if err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"d", "-1d", "-1h", "90", "1d-1h", "99999999d", "tomorrow", "0d", "2026-03-01T11:59:59Z", "1dd"} {
		if at, err := parseExpiry(bad, now); err == nil {
			t.Errorf("%q: %v", bad, at)
		}
	}
}
