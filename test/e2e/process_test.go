package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// outcome is what a command said and how it ended.
type outcome struct {
	stdout, stderr string
	code           int
}

// weir runs a command that ends by itself.
func weir(t *testing.T, env []string, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// mustSay fails the test unless the command ended with 1 and one sentence that has these parts.
func (o outcome) mustSay(t *testing.T, parts ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
	if o.code != 1 || len(lines) != 1 || !strings.HasPrefix(lines[0], "weir: ") {
		t.Errorf("exit code %d, want 1 and one line that begins with \"weir: \"; it said:\n%s", o.code, o.stderr)
	}
	for _, p := range parts {
		if !strings.Contains(o.stderr, p) {
			t.Errorf("the sentence does not say %q: %s", p, o.stderr)
		}
	}
}

// folder writes files into a folder of its own.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// soundFolder can be served, though by no backend that is there.
func soundFolder(t *testing.T) string {
	return folder(t, map[string]string{
		"gateway.yaml": harness.Listener(""), "consumer.yaml": harness.Consumer("app", harness.DefaultKey, ""),
		"backend.yaml": harness.Backend{Name: "up", Dialect: "openai", URL: "http://127.0.0.1:1/v1", Key: "-"}.YAML(),
		"route.yaml":   harness.Route("all", "rules: [{backends: [{name: up}]}]"),
	})
}

func TestRunRefusesToStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free := func() string { return fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)) }
	script := func(content string) string {
		path := filepath.Join(t.TempDir(), "envoy")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+content), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old := script(`echo "envoy  version: 0123456789abcdef/1.29.3/Clean/RELEASE/BoringSSL"` + "\n")
	broken := script("echo no such library >&2; exit 127\n")
	empty := t.TempDir()
	simulated := soundFolder(t)
	for name, content := range map[string]string{"backend.yaml": simulatedBackend("up", "openai", taken.Addr().String()+"/v1"), "up.secret.txt": harness.BackendKey("up")} {
		if err := os.WriteFile(filepath.Join(simulated, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	for _, c := range []struct {
		name string
		env  []string
		args []string
		want []string
	}{
		{"port of the gateway taken", nil, []string{"-f", soundFolder(t), "--listen", taken.Addr().String(), "--admin", free()}, []string{taken.Addr().String(), "in use"}},
		{"port of the admin interface taken", nil, []string{"-f", soundFolder(t), "--listen", free(), "--admin", taken.Addr().String()}, []string{taken.Addr().String(), "in use"}},
		{"port of a simulator taken", nil, []string{"-f", simulated, "--listen", free(), "--admin", free()}, []string{taken.Addr().String(), "in use"}},
		{"one port for two", nil, []string{"-f", soundFolder(t), "--listen", "127.0.0.1:1", "--admin", "127.0.0.1:1"}, []string{"127.0.0.1:1"}},
		{"Envoy too old", []string{"ENVOY_PATH=" + old}, []string{"-f", soundFolder(t), "--listen", free(), "--admin", free()}, []string{"ENVOY_PATH", old, "1.29.3", "1.40"}},
		{"Envoy that does not run", []string{"ENVOY_PATH=" + broken}, []string{"-f", soundFolder(t), "--listen", free(), "--admin", free()}, []string{"ENVOY_PATH", broken, "no such library"}},
		{"Envoy that is not there", []string{"ENVOY_PATH=/nowhere/envoy"}, []string{"-f", soundFolder(t), "--listen", free(), "--admin", free()}, []string{"ENVOY_PATH", "/nowhere/envoy"}},
		{"folder that is not there", nil, []string{"-f", "/nowhere/objects", "--listen", free(), "--admin", free()}, nil},
		{"folder without documents", nil, []string{"-f", empty, "--listen", free(), "--admin", free()}, nil},
		{"listen address that is none", nil, []string{"-f", soundFolder(t), "--listen", "nonsense", "--admin", free()}, nil},
		{"unknown flag", nil, []string{"--no-such-flag"}, []string{"no-such-flag"}},
		{"unknown log level", nil, []string{"-f", soundFolder(t), "--log-level", "loud"}, []string{"--log-level", "loud", "debug, info, warn or error"}},
		{"unknown log format", nil, []string{"-f", soundFolder(t), "--log-format", "xml"}, []string{"--log-format", "xml"}},
		{"wrong duration in the environment", []string{"WEIR_DRAIN_TIMEOUT=soon"}, []string{"-f", soundFolder(t)}, []string{"WEIR_DRAIN_TIMEOUT", "soon"}},
		{"runtime directory too deep", nil, []string{"-f", soundFolder(t), "--listen", free(), "--admin", free(),
			"--runtime-dir", filepath.Join(t.TempDir(), strings.Repeat("d", 120))}, []string{"socket path", "shorter"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := weir(t, c.env, "", append([]string{"run"}, c.args...)...)
			if c.want != nil {
				o.mustSay(t, c.want...)
			}
			if o.code != 1 || !strings.Contains(o.stderr, "weir: ") {
				t.Errorf("exit code %d; it said:\n%s", o.code, o.stderr)
			}
		})
	}

	t.Run("invalid folder", func(t *testing.T) {
		dir := folder(t, map[string]string{
			"gateway.yaml": harness.Listener(""),
			"route.yaml":   harness.Route("all", "rules:\n  - backends:\n      - name: nobody\n      - name: somebody\n        wait: 3"),
		})
		o := weir(t, nil, "", "run", "-f", dir, "--listen", free(), "--admin", free())
		if o.code != 1 {
			t.Errorf("exit code %d", o.code)
		}
		for _, want := range []string{"route.yaml:10: Route default/all: spec.rules[0].backends[1].wait: unknown field", "weir: ", "weir validate -f " + dir} {
			if !strings.Contains(o.stderr, want) {
				t.Errorf("%q is not in what it said:\n%s", want, o.stderr)
			}
		}
	})
}

func TestValidate(t *testing.T) {
	t.Parallel()
	t.Run("sound", func(t *testing.T) {
		dir := soundFolder(t)
		o := weir(t, nil, "", "validate", "-f", dir)
		want := regexp.MustCompile(`^` + regexp.QuoteMeta(dir) + ` is valid: 1 gateway, 1 backend, 1 route, 1 consumer, 1 API key \(version [0-9a-f]{12}\)\n$`)
		if o.code != 0 || !want.MatchString(o.stdout) || o.stderr != "" {
			t.Errorf("%+v", o)
		}
		if again := weir(t, []string{"WEIR_FILE=" + dir}, "", "validate"); again.stdout != o.stdout {
			t.Errorf("by the environment: %+v", again)
		}
	})
	t.Run("wrong in three places", func(t *testing.T) {
		dir := folder(t, map[string]string{
			"gateway.yaml": harness.Listener("limits: {maxRequestBytes: 5}"),
			"backend.yaml": harness.Document("Backend", "up", "dialect: openai\nurl: ftp://x"),
			"route.yaml":   "apiVersion: weir.dev/v1alpha1\nkind: Route\nmetadata: {name: all}\nspec:\n  rules: 5\n",
		})
		o := weir(t, nil, "", "validate", "-f", dir)
		lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
		if o.code != 1 || o.stderr != "" || len(lines) != 3 {
			t.Errorf("%+v", o)
		}
		for i, want := range []string{"backend.yaml:7: Backend default/up: spec.url: ", "gateway.yaml:7: LLMGateway default/e2e: spec.limits.maxRequestBytes: ", "route.yaml:5: Route default/all: spec.rules: "} {
			if i < len(lines) && !strings.HasPrefix(lines[i], want) {
				t.Errorf("line %d is %q and should begin with %q", i+1, lines[i], want)
			}
		}
	})
	t.Run("warning", func(t *testing.T) {
		dir := soundFolder(t)
		insecure := harness.Backend{Name: "loose", Dialect: "openai", URL: "https://127.0.0.1:1/v1", Key: "-", Spec: "tls: {insecureSkipVerify: true}"}
		if err := os.WriteFile(filepath.Join(dir, "loose.yaml"), []byte(insecure.YAML()), 0o600); err != nil {
			t.Fatal(err)
		}
		o := weir(t, nil, "", "validate", "-f", dir)
		if o.code != 0 || !strings.Contains(o.stdout, "insecureSkipVerify") || !strings.Contains(o.stdout, "is valid") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a file instead of a folder", func(t *testing.T) {
		o := weir(t, nil, "", "validate", "-f", filepath.Join(soundFolder(t), "gateway.yaml"))
		if o.code != 0 || !strings.Contains(o.stdout, "1 gateway") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("missing folder", func(t *testing.T) {
		if o := weir(t, nil, "", "validate", "-f", "/nowhere/objects"); o.code != 1 || !strings.Contains(o.stdout, "does not exist") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("what comes with Weir", func(t *testing.T) {
		if o := weir(t, nil, "", "validate", "-f", filepath.Join("..", "..", "deploy", "local")); o.code != 0 {
			t.Errorf("%+v", o)
		}
	})
	t.Run("secrets are not shown", func(t *testing.T) {
		dir := soundFolder(t)
		const secret = "do not show\nthis secret"
		for name, content := range map[string]string{
			"bad.yaml":       harness.Backend{Name: "bad", Dialect: "openai", URL: "http://127.0.0.1:1/v1"}.YAML(),
			"bad.secret.txt": secret,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := weir(t, nil, "", "validate", "-f", dir)
		if o.code != 1 || !strings.Contains(o.stdout, "spec.credential.secretRef") || strings.Contains(o.stdout+o.stderr, "this secret") {
			t.Errorf("%+v", o)
		}
	})
}

func TestSmallCommands(t *testing.T) {
	t.Parallel()
	t.Run("version", func(t *testing.T) {
		o := weir(t, nil, "", "version")
		if o.code != 0 || !regexp.MustCompile(`^weir \S+ \(go\S+, \w+/\w+\)\n$`).MatchString(o.stdout) {
			t.Errorf("%+v", o)
		}
	})
	t.Run("keys hash", func(t *testing.T) {
		const key = "a-key-of-some-length-0123456789"
		for _, stdin := range []string{key, key + "\n", " " + key + " \r\n", key + "\nanother line\n"} {
			if o := weir(t, nil, stdin, "keys", "hash"); o.code != 0 || o.stdout != identity.HashKey(key)+"\n" {
				t.Errorf("%q: %+v", stdin, o)
			}
		}
	})
	t.Run("keys hash of what is no key", func(t *testing.T) {
		for _, key := range []string{"", "short", "with a space 0123456789", "bytes\x00of-any-kind-0123456789"} {
			o := weir(t, nil, key, "keys", "hash")
			o.mustSay(t)
			if key != "" && (strings.Contains(o.stderr, key) || o.stdout != "") {
				t.Errorf("the key is in what it said: %+v", o)
			}
		}
	})
	t.Run("sim", func(t *testing.T) {
		weir(t, nil, "", "sim", "openai", "--listen", "0.0.0.0:0").mustSay(t, "loopback")
		weir(t, nil, "", "sim", "telepathy").mustSay(t, "telepathy", "openai")
		weir(t, nil, "", "sim").mustSay(t)
	})
	t.Run("unknown command", func(t *testing.T) { weir(t, nil, "", "levitate").mustSay(t, "levitate") })
}

// simulatedBackend asks `weir run` for a simulator.
func simulatedBackend(name, dialect, address string) string {
	return strings.Replace(harness.Backend{Name: name, Dialect: dialect, URL: "http://" + address}.YAML(),
		"  name: "+name+"\n", "  name: "+name+"\n  annotations: {weir.dev/simulator: \"true\"}\n", 1)
}

// children are the processes that a process has started: their command lines by process id.
func children(t *testing.T, parent int) map[int]string {
	t.Helper()
	out, err := exec.Command("ps", "-axo", "pid=,ppid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(f[0])
			if err != nil {
				t.Fatal(err)
			}
			found[pid] = strings.Join(f[2:], " ")
		}
	}
	return found
}

// simulatorOf is the process that simulates a dialect.
func simulatorOf(t *testing.T, g *harness.Gateway, dialect string) int {
	t.Helper()
	for pid, args := range children(t, g.PID()) {
		if strings.Contains(args, " sim "+dialect) {
			return pid
		}
	}
	return 0
}

// TestSimulators has weir start the simulators itself, as `make run` does.
func TestSimulators(t *testing.T) {
	t.Parallel()
	at := func(path string) string { return fmt.Sprintf("127.0.0.1:%d%s", harness.FreePort(t), path) }
	openai, anthropic := at("/v1"), at("")
	g := harness.Start(t, harness.Options{
		Args:  []string{"--simulate=true"},
		Files: map[string]string{"one.secret.txt": harness.BackendKey("one"), "two.secret.txt": harness.BackendKey("two")},
		Documents: []string{
			simulatedBackend("one", "openai", openai), simulatedBackend("two", "anthropic", anthropic),
			harness.Route("all", `
rules:
  - matches: [{models: [resilient]}]
    backends: [{name: one, model: gpt-4o}, {name: two, model: claude-sonnet-4-5, priority: 1}]
  - matches: [{models: [gpt-4o]}]
    backends: [{name: one}]`),
		},
	})
	l := lane{name: "resilient", dialect: "openai", model: "resilient"}
	from := func() (int, string) {
		r := send(t, g, l.message())
		return r.status, r.header.Get("x-weir-backend")
	}
	for _, dialect := range []string{"openai", "anthropic"} {
		if simulatorOf(t, g, dialect) == 0 {
			t.Fatalf("no simulator of %s runs: %v", dialect, children(t, g.PID()))
		}
	}
	if n := len(children(t, g.PID())); n != 3 {
		t.Errorf("%d processes instead of Envoy and two simulators: %v", n, children(t, g.PID()))
	}
	g.WaitFor("the first backend serves", func() bool { _, b := from(); return b == "default/one" })

	t.Run("one is killed", func(t *testing.T) {
		if err := syscall.Kill(simulatorOf(t, g, "openai"), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		g.WaitFor("weir says so", func() bool { return strings.Contains(g.Logs(), "a simulator ended") })
		for range 20 {
			if status, backend := from(); status != http.StatusOK || backend != "default/two" {
				t.Fatalf("status %d from %q", status, backend)
			}
		}
		if r := send(t, g, lanes[0].message()); r.status != http.StatusServiceUnavailable || r.header.Get("retry-after") == "" {
			t.Errorf("without another backend: status %d, %v: %s", r.status, r.header, r.body)
		}
		if !g.Ready() {
			t.Error("weir is not ready any more")
		}
	})
	t.Run("weir is killed", func(t *testing.T) {
		g.Kill(syscall.SIGKILL)
		g.Wait()
		g.WaitFor("no process is left", func() bool { return len(g.Leftovers()) == 0 })
		for _, address := range []string{openai, anthropic} {
			address, _, _ = strings.Cut(address, "/")
			g.WaitFor("nobody listens on "+address, func() bool {
				conn, err := net.Dial("tcp", address)
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
		}
	})
}

// TestNoSimulators: a configuration that asks for none gets none.
func TestNoSimulators(t *testing.T) {
	t.Parallel()
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	g := harness.Start(t, harness.Options{
		Args:      []string{"--simulate=true"},
		Backends:  []harness.Backend{{Name: "up", Sim: up}},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: up}]}]")},
	})
	var names []string
	for _, args := range children(t, g.PID()) {
		names = append(names, args)
	}
	if len(names) != 1 || slices.ContainsFunc(names, func(s string) bool { return strings.Contains(s, " sim ") }) {
		t.Errorf("weir has started %v", names)
	}
}
