package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiffOfFolders(t *testing.T) {
	const key = "sk-the-provider-key-of-this-test"
	t.Setenv("DIFF_KEY", key)
	folder := func(model, port string) string {
		dir := t.TempDir()
		text := strings.NewReplacer("MODEL", model, "PORT", port).Replace(`
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: gw}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: one}
spec: {dialect: openai, url: "http://127.0.0.1:PORT/v1", models: [{name: MODEL}], credential: {secretRef: {env: DIFF_KEY}}}
---
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: all}
spec: {rules: [{backends: [{name: one}]}]}
`)
		if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	base := folder("m", "1001")
	code := func(err error) int {
		var quiet quietError
		switch {
		case err == nil:
			return 0
		case errors.As(err, &quiet):
			return quiet.code
		}
		t.Fatal(err)
		return -1
	}

	out, err := weir("", "diff", "-f", folder("m", "1001"), "--against", base)
	if code(err) != 0 || !strings.Contains(out, "Nothing would change") {
		t.Errorf("equal folders: exit code %d\n%s", code(err), out)
	}
	out, err = weir("", "diff", "-f", folder("m", "1002"), "--against", base)
	if code(err) != 1 || !strings.Contains(out, "changed Backend default/one") || !strings.Contains(out, "+          port_value: 1002") || strings.Contains(out, key) {
		t.Errorf("another port: exit code %d\n%s", code(err), out)
	}
	out, err = weir("", "diff", "-f", folder("other", "1001"), "--against", base, "-o", "json")
	var d difference
	if code(err) != 1 || json.Unmarshal([]byte(out), &d) != nil || len(d.Objects) != 1 || d.Objects[0].Object != "Backend default/one" || d.Before == d.After {
		t.Errorf("another model: exit code %d\n%s", code(err), out)
	}
	if _, err = weir("", "diff", "-f", folder("", "1001"), "--against", base); code(err) != 2 {
		t.Errorf("an invalid folder: exit code %d", code(err))
	}
	if _, err = weir("", "diff", "-f", base); code(err) != 2 {
		t.Errorf("nothing to compare with: exit code %d", code(err))
	}
}

// TestForeignObjects: a folder that is applied to a cluster holds more than Weir's objects. They are named, and fail nothing.
func TestForeignObjects(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"weir.yaml": `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: gw}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
---
apiVersion: v1
kind: Secret
metadata: {name: openai, namespace: prod}
stringData: {value: hunter2}
`, "app.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: vllm}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"app.yaml:1: Deployment vllm: warning: left out: its apiVersion apps/v1 is not one of Weir's\n", "weir.yaml:7: Secret prod/openai: warning: left out: its apiVersion v1 is"}
	for _, args := range [][]string{{"validate", "-f", dir}, {"diff", "-f", dir, "--against", dir}} {
		out, err := weir("", args...)
		if err != nil || strings.Contains(out, "hunter2") {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
		for _, w := range want {
			if strings.Count(out, w) != 1 {
				t.Errorf("%q: no line %q, or more than one:\n%s", args, w, out)
			}
		}
	}
}
