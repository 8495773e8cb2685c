package kubernetes

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// command runs weir, and returns what it says and its exit code.
func (r *rig) command(args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.Command(harness.Binary(r.t), append(args, "--kubernetes", "--kubeconfig", r.kubeconfig, "--namespace", r.ns)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestCommands: what a folder would change in a cluster is told before it is applied, and what is wrong in a cluster as well.
func TestCommands(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const value = "sk-a-key-that-no-command-shows"
	r.secret("key-one", map[string]string{"value": value})
	const backendOne = "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: one, namespace: NS, labels: {team: a}}\n" +
		"spec: {dialect: openai, url: \"http://127.0.0.1:1234/v1\", models: [{name: m}], credential: {secretRef: {name: key-one}}}\n"
	written := strings.ReplaceAll(backendOne, "NS", r.ns)
	r.apply(basics(), written, route("chat", "m", "{name: one}"))

	if out, code := r.command("validate"); code != 0 || !strings.Contains(out, "is valid: 1 gateway, 1 backend, 1 route") {
		t.Errorf("a valid namespace: exit code %d\n%s", code, out)
	}
	folder := func(text string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, c := range map[string]struct {
		text string
		code int
		want []string
	}{
		"the same":   {written, 0, []string{"Nothing would change"}},
		"the port":   {strings.ReplaceAll(written, "1234", "1235"), 1, []string{"changed Backend " + r.ns + "/one", "+          port_value: 1235"}},
		"a new one":  {written + "---\n" + strings.ReplaceAll(written, "name: one", "name: two"), 1, []string{"added Backend " + r.ns + "/two", "added cluster backend/" + r.ns + "/two"}},
		"no secret":  {strings.ReplaceAll(written, "name: key-one", "name: key-none"), 2, []string{"key-none", "spec.credential.secretRef"}},
		"not valid":  {strings.ReplaceAll(written, "dialect: openai", "dialect: 7up_"), 2, []string{"all.yaml:4", "spec.dialect"}},
		"of others":  {written + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: key-one}\nstringData: {value: " + value + "}\n", 0, []string{"all.yaml:6: Secret key-one: warning: left out", "Nothing would change"}},
		"by Service": {strings.ReplaceAll(written, `url: "http://127.0.0.1:1234/v1"`, "service: {name: none, port: 80}, basePath: /v1"), 1, []string{"spec.service"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := r.command("diff", "-f", folder(c.text))
			if code != c.code || strings.Contains(out, value) {
				t.Errorf("exit code %d, want %d:\n%s", code, c.code, out)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not said:\n%s", want, out)
				}
			}
		})
	}

	r.apply(strings.ReplaceAll(written, "name: key-one", "name: key-none"))
	if out, code := r.command("validate"); code != 1 || !strings.Contains(out, "Backend "+r.ns+"/one: spec.credential.secretRef") || !strings.Contains(out, "key-none") {
		t.Errorf("a Secret that is not there: exit code %d\n%s", code, out)
	}
}
