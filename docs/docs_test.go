// Package docs_test holds the pages to what the program does: their YAML compiles, their links lead somewhere, and
// the flags they list are those that there are.
package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// pages are the Markdown files that people read, by the path from this folder.
func pages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"*.md", "decisions/*.md", "../*.md", "../deploy/examples/*.md", "../adapters/*.md",
		"../extproc/*.md", "../extproc/*/*.md", "../extproc/*/*/*.md", "../usage/*.md", "../usage/*/*.md", "../xds/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	if len(out) < 15 {
		t.Fatalf("only %d pages: %q", len(out), out)
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var block = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// base is what the YAML of a page may name without showing it.
var base = map[string]string{
	"LLMGateway default/gateway": "spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}",
	"Backend default/openai":     "spec: {dialect: openai, url: https://api.openai.com/v1, prices: [{input: '1', output: '1'}]}",
	"Backend default/anthropic":  "spec: {dialect: anthropic, url: https://api.anthropic.com, prices: [{input: '1', output: '1'}]}",
	"Route default/base":         "spec: {rules: [{backends: [{name: openai}]}]}",
	"Consumer default/base":      "spec: {tenant: base}",
	"APIKey default/base":        "spec: {consumer: base, hash: 'sha256:" + strings.Repeat("5", 64) + "'}",
}

// TestYAML loads and compiles the YAML of each page as one folder.
func TestYAML(t *testing.T) {
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, page := range pages(t) {
		blocks := block.FindAllStringSubmatch(read(t, page), -1)
		if len(blocks) == 0 {
			continue
		}
		total += len(blocks)
		t.Run(page, func(t *testing.T) {
			dir := t.TempDir()
			var text strings.Builder
			for _, b := range blocks {
				text.WriteString("---\n" + b[1])
			}
			write(t, dir, "page.yaml", text.String())
			objs, _ := files.Load(dir, environment(t))
			text.Reset()
			for name, spec := range base {
				kind, id, _ := strings.Cut(name, " ")
				ref := source.ObjectRef{Kind: kind, Namespace: "default", Name: strings.TrimPrefix(id, "default/")}
				if objs.Origins[ref] == nil {
					text.WriteString("---\napiVersion: weir.dev/v1alpha1\nkind: " + kind + "\nmetadata: {name: " + ref.Name + "}\n" + spec + "\n")
				}
			}
			write(t, dir, "base.yaml", text.String())

			objs, problems := files.Load(dir, environment(t))
			for _, p := range problems {
				t.Error(p)
			}
			if t.Failed() {
				return
			}
			_, problems = compile.Compile(objs, compile.Options{Dialects: dialects, Keys: identity.Offline{}, ExtProcCluster: "weir", SystemCAs: "ca.pem"})
			for _, p := range problems {
				t.Error(p)
			}
		})
	}
	if total < 10 {
		t.Errorf("only %d YAML blocks were found", total)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// environment answers every variable with something of the right kind, but for base URLs.
func environment(t *testing.T) files.Env {
	certificate, key := keyPair(t)
	return func(name string) (string, bool) {
		switch {
		case strings.HasSuffix(name, "_URL"):
			return "", false
		case name == "SESSION_KEY":
			return strings.Repeat("5e", 32), true
		case name == "GATEWAY_PRIVATE_KEY":
			return key, true
		case name == "GATEWAY_CERTIFICATE" || strings.HasSuffix(name, "_CA"):
			return certificate, true
		}
		return "value-of-" + name + "-" + strings.Repeat("x", 32), true
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	fence   = regexp.MustCompile("(?s)```.*?```")
	code    = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
)

// TestLinks follows every link to a file and to a heading.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, page), ""), -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: %s leads nowhere", page, m[1])
				continue
			}
			if anchor != "" && (info.IsDir() || !anchors(read(t, target))[anchor]) {
				t.Errorf("%s: %s has no such heading", page, m[1])
			}
		}
	}
}

// anchors gives the headings of a page as GitHub names them.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		out[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
				return r
			}
			return -1
		}, strings.ToLower(m[1]))] = true
	}
	return out
}

// TestFlags compares the flags that pages list with what the program says.
func TestFlags(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "weir")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("weir cannot be built: %v\n%s", err, out)
	}
	for _, c := range []struct{ command, page string }{
		{"run", "configuration.md"}, {"serve", "operations.md"}, {"bootstrap", "operations.md"}, {"control", "fleet.md"},
		{"explain request", "explain.md"}, {"status", "explain.md"}, {"top", "explain.md"},
		{"cache purge", "operations.md"}, {"sessions list", "operations.md"}, {"sessions delete", "operations.md"},
	} {
		out, err := exec.Command(binary, append(strings.Fields(c.command), "--help")...).Output()
		if err != nil {
			t.Fatalf("weir %s --help: %v", c.command, err)
		}
		_, want, ok := strings.Cut(string(out), "Flags:\n")
		if !ok {
			t.Fatalf("weir %s --help lists no flags:\n%s", c.command, out)
		}
		if !strings.Contains(read(t, c.page), "```text\n"+want+"```\n") {
			t.Errorf("%s does not list these flags of weir %s:\n%s", c.page, c.command, want)
		}
	}
}
