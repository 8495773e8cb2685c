package diff

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source/files"
)

const gateway = `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: gw}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: app}
spec: {}
---
apiVersion: weir.dev/v1alpha1
kind: APIKey
metadata: {name: app}
spec: {consumer: app, secretRef: {env: APP_KEY}}
`

const backend = `
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: NAME}
spec:
  dialect: openai
  url: http://127.0.0.1:PORT/v1
  models: [{name: m}]
  credential: {secretRef: {env: KEY}}
`

const route = `
---
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: chat}
spec: {rules: [{backends: [BACKENDS]}]}
`

func backendAt(name, port string) string {
	return strings.NewReplacer("NAME", name, "PORT", port).Replace(backend)
}

func routeTo(backends string) string { return strings.Replace(route, "BACKENDS", backends, 1) }

// version compiles documents; key is the credential of its Backends.
func version(t *testing.T, key string, documents ...string) *compile.Version {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(gateway+strings.Join(documents, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	objs, problems := files.Load(dir, func(name string) (string, bool) {
		return map[string]string{"KEY": key, "APP_KEY": "a-key-of-some-length-for-tests"}[name], true
	})
	for _, p := range problems {
		t.Fatal(p)
	}
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	v, problems := compile.Compile(objs, compile.Options{Dialects: set, Keys: identity.Offline{}, ExtProcCluster: "weir_extproc"})
	if v == nil {
		t.Fatal(problems)
	}
	return v
}

// told are the changes, "type name action" each.
func told(changes []Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.Type+" "+c.Name+" "+c.Action)
	}
	return strings.Join(out, "\n")
}

func TestVersions(t *testing.T) {
	const secret = "sk-the-credential-of-tests"
	a, b := backendAt("a", "1001"), backendAt("b", "1002")
	base := version(t, secret, a, b, routeTo("{name: a, weight: 90}, {name: b, weight: 10}"))
	for name, tt := range map[string]struct {
		after *compile.Version
		want  string
		diff  []string // lines of the first change
	}{
		"nothing": {after: version(t, secret, b, a, routeTo("{name: a, weight: 90}, {name: b, weight: 10}"))},
		"a weight": {
			after: version(t, secret, a, b, routeTo("{name: a, weight: 50}, {name: b, weight: 50}")),
			want:  "route default/chat#chain-0011 changed\nroute default/chat#direct-0011 changed",
			diff:  []string{"-      weight: 90\n", "+      weight: 50\n"},
		},
		"a port": {
			after: version(t, secret, backendAt("a", "2001"), b, routeTo("{name: a, weight: 90}, {name: b, weight: 10}")),
			want:  "endpoints backend/default/a changed",
			diff:  []string{"-          port_value: 1001\n", "+          port_value: 2001\n"},
		},
		"a backend": {
			after: version(t, secret, a, b, backendAt("c", "1003"), routeTo("{name: a, weight: 90}, {name: b, weight: 10}")),
			want:  "cluster backend/default/c added\nendpoints backend/default/c added\nsecret credential/default/c/authorization added",
		},
		"a credential": {
			after: version(t, secret+"2", a, b, routeTo("{name: a, weight: 90}, {name: b, weight: 10}")),
			want:  "secret credential/default/a/authorization changed\nsecret credential/default/b/authorization changed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			changes := Versions(base, tt.after)
			got := told(changes)
			if got != tt.want {
				t.Errorf("changes:\n%s\nwant:\n%s", got, tt.want)
			}
			for _, line := range tt.diff {
				if len(changes) == 0 || !strings.Contains(changes[0].Diff, line) {
					t.Errorf("the first change does not show %q: %+v", line, changes)
				}
			}
			for _, c := range changes {
				if strings.Contains(c.Diff, secret) {
					t.Errorf("%s %s shows a secret", c.Type, c.Name)
				}
			}
		})
	}
}

// TestFirst: before the first version there is nothing.
func TestFirst(t *testing.T) {
	for _, c := range Versions(nil, version(t, "sk-of-tests", backendAt("a", "1001"), routeTo("{name: a}"))) {
		if c.Action != Added {
			t.Errorf("%s %s %s", c.Type, c.Name, c.Action)
		}
	}
}
