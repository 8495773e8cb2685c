package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

func TestGPUSimulators(t *testing.T) {
	backend := func(change func(*v1alpha1.BackendSpec)) *v1alpha1.Backend {
		b := &v1alpha1.Backend{
			ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "b", Annotations: map[string]string{simulatorAnnotation: "true"}},
			Spec: v1alpha1.BackendSpec{Dialect: "openai", BasePath: "/v1", Endpoints: []v1alpha1.Endpoint{
				{Address: "127.0.0.1", Port: 8101}, {Address: "127.0.0.2", Port: 8101}, {Address: "::1", Port: 8103}}},
		}
		change(&b.Spec)
		return b
	}
	const three = "gpu --addresses 127.0.0.1:8101,127.0.0.2:8101,[::1]:8103"
	for name, test := range map[string]struct {
		change       func(*v1alpha1.BackendSpec)
		args, listen string
	}{
		"bare": {func(*v1alpha1.BackendSpec) {}, three, "127.0.0.1:8101 127.0.0.2:8101 [::1]:8103"},
		"models": {func(s *v1alpha1.BackendSpec) {
			s.Models = []v1alpha1.BackendModel{{Name: "a"}, {Name: "b", UpstreamName: "org/b"}}
		}, three + " --models a,org/b", "127.0.0.1:8101 127.0.0.2:8101 [::1]:8103"},
		"DCGM": {func(s *v1alpha1.BackendSpec) {
			s.Metrics = []v1alpha1.MetricsSource{{Type: v1alpha1.MetricsVLLM}, {Type: v1alpha1.MetricsDCGM}, {Type: v1alpha1.MetricsORCA}}
		}, three + " --dcgm-port 9400", "127.0.0.1:8101 127.0.0.2:8101 [::1]:8103 127.0.0.1:9400 127.0.0.2:9400 [::1]:9400"},
		"DCGM of the server": {func(s *v1alpha1.BackendSpec) {
			s.Metrics = []v1alpha1.MetricsSource{{Type: v1alpha1.MetricsDCGM, Port: 8101, Path: "/dcgm/metrics"}}
		}, three, "127.0.0.1:8101 127.0.0.2:8101 [::1]:8103"},
	} {
		got, err := simulators([]*v1alpha1.Backend{backend(test.change)})
		if err != nil || len(got) != 1 || got[0].backend != "n/b" || strings.Join(got[0].args, " ") != test.args || strings.Join(got[0].listen, " ") != test.listen {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for says, change := range map[string]func(*v1alpha1.BackendSpec){
		"not anthropic":       func(s *v1alpha1.BackendSpec) { s.Dialect = "anthropic" },
		"write basePath: /v1": func(s *v1alpha1.BackendSpec) { s.BasePath = "" },
		"not on 10.0.0.1":     func(s *v1alpha1.BackendSpec) { s.Endpoints[1].Address = "10.0.0.1" },
		"not on localhost":    func(s *v1alpha1.BackendSpec) { s.Endpoints[1].Address = "localhost" },
		"not SGLang":          func(s *v1alpha1.BackendSpec) { s.Metrics = []v1alpha1.MetricsSource{{Type: v1alpha1.MetricsSGLang}} },
		"127.0.0.1:9400 would be bound twice": func(s *v1alpha1.BackendSpec) {
			s.Metrics = []v1alpha1.MetricsSource{{Type: v1alpha1.MetricsDCGM}}
			s.Endpoints[1].Address = "127.0.0.1"
		},
		"names two": func(s *v1alpha1.BackendSpec) {
			s.Metrics = []v1alpha1.MetricsSource{{Type: v1alpha1.MetricsDCGM}, {Type: v1alpha1.MetricsDCGM, Port: 1}}
		},
	} {
		if _, err := simulators([]*v1alpha1.Backend{backend(change)}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "n/b") {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestInARow(t *testing.T) {
	for _, test := range []struct {
		first      string
		n          int
		want, says string
	}{
		{"127.0.0.1:8101", 3, "127.0.0.1:8101 127.0.0.1:8102 127.0.0.1:8103", ""},
		{"[::1]:65535", 1, "[::1]:65535", ""},
		{":0", 2, ":0 :0", ""},
		{"127.0.0.1:65535", 2, "", "--servers is 2"},
		{"127.0.0.1:1", 0, "", "--servers is 0"},
		{"127.0.0.1", 1, "", "is not host:port"},
		{"127.0.0.1:http", 1, "", "must be a number"},
	} {
		got, err := inARow(test.first, test.n)
		if strings.Join(got, " ") != test.want || (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s x%d: %q, %v", test.first, test.n, got, err)
		}
	}
}

// TestSimGPUFlags compares the flags that the simulator's page lists with what the command says.
func TestSimGPUFlags(t *testing.T) {
	const page = "../../test/sim/gpu/README.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	c := root()
	var out bytes.Buffer
	c.SetArgs([]string{"sim", "gpu", "--help"})
	c.SetOut(&out)
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, want, ok := strings.Cut(out.String(), "Flags:\n")
	if !ok {
		t.Fatalf("there are no flags in\n%s", out.String())
	}
	before, got, _ := strings.Cut(string(text), "```text\n")
	got, after, _ := strings.Cut(got, "```")
	if *update {
		if err := os.WriteFile(page, []byte(before+"```text\n"+want+"```"+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("%s lists\n%s\nwant\n%s", page, got, want)
	}
}

func TestSimGPURefused(t *testing.T) {
	for _, bad := range []struct {
		args []string
		says string
	}{
		{[]string{"--profile", "gpt-2"}, "there is no profile"}, {[]string{"--speed", "0"}, "--speed is 0"}, {[]string{"--kv-tokens", "-1"}, "hold a block"},
		{[]string{"--addresses", ":0", "--servers", "2"}, "none of the others can be"}, {[]string{"--listen", "0.0.0.0:0"}, "loopback only"}, {[]string{"x"}, "unknown command"},
	} {
		c := root()
		c.SetArgs(append([]string{"sim", "gpu"}, bad.args...))
		c.SetOut(io.Discard)
		c.SetErr(io.Discard)
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%q: %v, want %q", bad.args, err, bad.says)
		}
	}
}

// TestSimGPU runs the command with its flags, asks a server, and lets it end.
func TestSimGPU(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	c := root()
	c.SetArgs([]string{"sim", "gpu", "--listen", "127.0.0.1:0", "--servers", "3", "--profile", "qwen3-32b-2xh100", "--speed", "1000", "--kv-tokens", "4096", "--max-seqs", "7", "--models", "m,n"})
	c.SetOut(in)
	ended := make(chan error, 1)
	go func() {
		err := c.ExecuteContext(ctx)
		in.CloseWithError(err)
		ended <- err
	}()
	var said bytes.Buffer
	for strings.Count(said.String(), "\n") < 3 {
		if _, err := io.CopyN(&said, out, 1); err != nil {
			t.Fatal(err)
		}
	}
	urls := regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+`).FindAllString(said.String(), -1)
	if len(slices.Compact(slices.Sorted(slices.Values(urls)))) != 3 {
		t.Fatalf("it says %q", said.String())
	}
	resp, err := http.Post(urls[2]+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"n","messages":[{"role":"user","content":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
		t.Errorf("%d %s %v", resp.StatusCode, b, err)
	}
	models, err := http.Get(urls[0] + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	defer models.Body.Close()
	if b, err := io.ReadAll(models.Body); err != nil || !strings.Contains(string(b), `"max_model_len":4096`) {
		t.Errorf("%s %v", b, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestGPUSimulatorProcess starts a process as weir run does for a Backend, and lets go of it.
func TestGPUSimulatorProcess(t *testing.T) {
	bin := t.TempDir() + "/weir"
	if b, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "sim", "gpu", "--addresses", "127.0.0.1:0,127.0.0.2:0", "--until-eof")
	cmd.Env = simulatorEnv(os.Environ())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "http://127.0.0.2:") {
		t.Errorf("%v: %s", err, out.String())
	}
}
