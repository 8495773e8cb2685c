package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// weir runs a command as main does.
func weir(stdin string, args ...string) (stdout string, err error) {
	c := root()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetIn(strings.NewReader(stdin))
	c.SetArgs(args)
	err = c.Execute()
	return out.String(), err
}

func TestVersion(t *testing.T) {
	out, err := weir("", "version")
	if err != nil || !regexp.MustCompile(`^weir \S+ \(go1\.\S+, \w+/\w+\)\n$`).MatchString(out) {
		t.Errorf("%q, %v", out, err)
	}
}

func TestKeysHash(t *testing.T) {
	const key = "a-long-random-key"
	want := fmt.Sprintf("sha256:%x\n", sha256.Sum256([]byte(key)))
	for _, stdin := range []string{key + "\n", key, "  " + key + " \r\nignored"} {
		out, err := weir(stdin, "keys", "hash")
		if err != nil || out != want {
			t.Errorf("%q: %q, %v", stdin, out, err)
		}
	}
	for _, stdin := range []string{"", "\n", "short\n", "with space in the middle\n"} {
		out, err := weir(stdin, "keys", "hash")
		if err == nil || out != "" || stdin != "\n" && stdin != "" && strings.Contains(err.Error(), strings.TrimSpace(stdin)) {
			t.Errorf("%q: %q, %v", stdin, out, err)
		}
	}
	if out, err := weir("x\n", "keys", "hash", "a-key-as-an-argument"); err == nil {
		t.Errorf("a key on the command line, for all processes to see, is taken: %q", out)
	}
}

func TestValidate(t *testing.T) {
	out, err := weir("", "validate", "-f", "../../deploy/local")
	if err != nil || !strings.Contains(out, "deploy/local is valid: 1 gateway, ") {
		t.Errorf("%v\n%s", err, out)
	}

	dir := t.TempDir()
	broken := "apiVersion: weir.dev/v1alpha1\nkind: Route\nmetadata:\n  name: r\nspec:\n  rules:\n    - backends:\n        - name: nowhere\n"
	if err := os.WriteFile(filepath.Join(dir, "r.yaml"), []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = weir("", "validate", "-f", dir)
	var quiet quietError
	if !errors.As(err, &quiet) {
		t.Errorf("the exit code of a broken folder comes from %v", err)
	}
	if want := "r.yaml:8: Route default/r: spec.rules[0].backends[0].name: there is no Backend default/nowhere"; !strings.Contains(out, want) {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

func TestFlagsHaveEnvironmentVariables(t *testing.T) {
	var listen string
	var count int
	run := func(args ...string) error {
		c := &cobra.Command{Use: "x", SilenceUsage: true, SilenceErrors: true, RunE: func(*cobra.Command, []string) error { return nil }}
		c.Flags().StringVar(&listen, "listen-address", "default", "where")
		c.Flags().IntVar(&count, "count", 1, "how many")
		bindEnv(c)
		c.SetArgs(args)
		return c.Execute()
	}
	check := func(wantListen string, wantCount int, args ...string) {
		t.Helper()
		if err := run(args...); err != nil || listen != wantListen || count != wantCount {
			t.Errorf("%q: %q, %d, %v; want %q, %d", args, listen, count, err, wantListen, wantCount)
		}
	}
	check("default", 1)
	t.Setenv("WEIR_LISTEN_ADDRESS", "from-environment")
	t.Setenv("WEIR_COUNT", "7")
	check("from-environment", 7)
	check("from-environment", 3, "--count", "3")
	check("flag", 7, "--listen-address=flag")
	t.Setenv("WEIR_COUNT", "many")
	if err := run(); err == nil || !strings.Contains(err.Error(), "WEIR_COUNT") {
		t.Errorf("a variable that is no number: %v", err)
	}
}

// TestEveryFlagNamesItsVariable in its help.
func TestEveryFlagNamesItsVariable(t *testing.T) {
	var look func(c *cobra.Command)
	seen := 0
	look = func(c *cobra.Command) {
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			seen++
			if !strings.Contains(f.Usage, "[$"+envName(f.Name)+"]") {
				t.Errorf("%s --%s: %s", c.CommandPath(), f.Name, f.Usage)
			}
		})
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(root())
	if seen < 15 {
		t.Errorf("only %d flags were looked at", seen)
	}
}

func TestSummary(t *testing.T) {
	o := source.NewObjects()
	if got := summary(o); got != "" {
		t.Errorf("got %q", got)
	}
	o.Backends = make([]*v1alpha1.Backend, 2)
	o.Gateways = make([]*v1alpha1.LLMGateway, 1)
	if got := summary(o); got != "1 gateway, 2 backends" {
		t.Errorf("got %q", got)
	}
}

func TestSimulators(t *testing.T) {
	backend := func(url string, simulated bool) *v1alpha1.Backend {
		b := &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "b"}, Spec: v1alpha1.BackendSpec{Dialect: "openai", URL: url}}
		if simulated {
			b.Annotations = map[string]string{simulatorAnnotation: "true"}
		}
		return b
	}
	got, err := simulators([]*v1alpha1.Backend{backend("https://api.openai.com/v1", false), backend("http://127.0.0.1:8090/v1", true), backend("http://[::1]:8091", true)})
	want := []simulator{
		{backend: "n/b", listen: []string{"127.0.0.1:8090"}, args: []string{"openai", "--listen", "127.0.0.1:8090", "--seed", "8090"}},
		{backend: "n/b", listen: []string{"[::1]:8091"}, args: []string{"openai", "--listen", "[::1]:8091", "--seed", "8091"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for url, says := range map[string]string{
		"https://127.0.0.1:8090": "needs a spec.url like", "http://127.0.0.1/v1": "needs a spec.url like", "": "needs a spec.url like",
		"http://10.0.0.1:8090": "loopback only", "http://api.openai.com:80": "loopback only",
	} {
		if _, err := simulators([]*v1alpha1.Backend{backend(url, true)}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "n/b") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestTryLines(t *testing.T) {
	with := func(models ...string) *v1alpha1.Backend {
		b := &v1alpha1.Backend{}
		for _, m := range models {
			b.Spec.Models = append(b.Spec.Models, v1alpha1.BackendModel{Name: v1alpha1.ModelName(m)})
		}
		return b
	}
	lines := tryLines("http://127.0.0.1:1", "KEY", []*v1alpha1.Backend{with("one", "other"), with(), with("two"), with("three")})
	for i, model := range []string{"one", "two", "three"} {
		if !strings.Contains(lines[i], `"model":"`+model+`"`) || !strings.Contains(lines[i], "KEY") {
			t.Errorf("line %d: %s", i, lines[i])
		}
	}
	if lines := tryLines("b", "k", nil); !strings.Contains(lines[2], `"MODEL"`) {
		t.Errorf("without models: %s", lines[2])
	}
}
