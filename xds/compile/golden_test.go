package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/extproc/content"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldens lists testdata/*.in.yaml by name.
func goldens(t testing.TB) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	out := map[string]string{}
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(p), ".in.yaml")] = string(raw)
	}
	return out
}

// TestGolden compares everything that is made of testdata/NAME.in.yaml with testdata/NAME.out.yaml.
func TestGolden(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			v, problems := Compile(load(t, in), options(t))
			if v == nil {
				t.Fatalf("refused: %v", problems)
			}
			brief := name != "minimal"
			out := map[string]any{
				"maxBody": v.MaxBody, "retain": v.Retain.String(), "table": dumpTable(v.Table),
				"clusters": dumpAll(t, maps.Collect(v.Clusters.All()), brief), "endpoints": dumpAll(t, v.Endpoints, brief),
				"secrets": dumpAll(t, v.Secrets, brief), "routes": dumpAll(t, maps.Collect(v.Routes.All()), brief),
			}
			if !brief || strings.HasPrefix(name, "li") { // limits, listeners; the others have minimal's
				out["listeners"] = dumpAll(t, v.Listeners, brief)
			}
			if len(v.Pools) > 0 {
				out["pools"], out["steered"] = v.Pools, v.Steered
				out["waits"] = fmt.Sprintf("%v, %s at most; prompts %v", v.Table.Waits, v.MaxWait, v.Table.Prompts)
			}
			if v.Table.Captures != nil {
				out["captures"] = dumpCaptures(v.Table.Captures)
			}
			for _, p := range problems {
				out["problems"] = append(listOf(out["problems"]), p.String())
			}
			got := printYAML(t, out, SpeakingNames(v))
			path := filepath.Join(dir, name+".out.yaml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v; make it with -update and read it", err)
			}
			if string(got) != string(want) {
				t.Errorf("%s.out.yaml differs at %s; if that is meant, run with -update and read the difference", name, firstDifference(string(got), string(want)))
			}
		})
	}
}

// printYAML sorts keys byte by byte: the library's own order, which reads digits as numbers, is none for hashes.
func printYAML(t *testing.T, v any, names *strings.Replacer) []byte {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(names.Replace(buf.String())))
	dec.UseNumber() // or large numbers come out as 3.3554432e+07
	var plain any
	if err := dec.Decode(&plain); err != nil {
		t.Fatal(err)
	}
	out, err := yaml.Marshal(yamlNode(t, plain))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func yamlNode(t *testing.T, v any) *yaml.Node {
	n := &yaml.Node{}
	switch v := v.(type) {
	case map[string]any:
		n.Kind = yaml.MappingNode
		for _, k := range slices.Sorted(maps.Keys(v)) {
			n.Content = append(n.Content, yamlNode(t, k), yamlNode(t, v[k]))
		}
	case []any:
		n.Kind = yaml.SequenceNode
		for _, x := range v {
			n.Content = append(n.Content, yamlNode(t, x))
		}
	case json.Number:
		n.Kind, n.Value = yaml.ScalarNode, v.String()
	default:
		if err := n.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d:\n  got  %s\n  want %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("line %d: one of them ends", min(len(g), len(w))+1)
}

// dumpAll prints messages as JSON values; if brief, without what is the same in all goldens.
func dumpAll[M proto.Message](t *testing.T, m map[string]M, brief bool) map[string]any {
	out := map[string]any{}
	for name, msg := range m {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(msg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		out[name] = shortened(v, brief)
	}
	return out
}

// constant are fields and filters that minimal.out.yaml shows for all.
var constant = []string{"local_reply_config", "request_mutations", "response_mutations", "weir.attempt", "weir.peek", "weir.decide", "access_log", "early_header_mutation_extensions"}

// shortened replaces what would drown a reader.
func shortened(v any, brief bool) any {
	switch v := v.(type) {
	case map[string]any:
		if name, _ := v["name"].(string); brief && slices.Contains(constant, name) {
			return name + ", see minimal.out.yaml"
		}
		if codes, ok := v["retriable_status_codes"].([]any); ok && len(codes) > 10 {
			v["retriable_status_codes"] = fmt.Sprintf("%d: %v to %v", len(codes), codes[0], codes[len(codes)-1])
		}
		for k := range v {
			if k == "typed_config" && v["name"] == "weir.from" {
				continue // short, and not in minimal.out.yaml
			}
			if brief && slices.Contains(constant, k) {
				v[k] = "see minimal.out.yaml"
				continue
			}
			v[k] = shortened(v[k], brief)
		}
	case []any:
		for i := range v {
			v[i] = shortened(v[i], brief)
		}
	case string:
		switch {
		case v == script(true, ""):
			return "(json.lua, peek.lua, hide.lua)"
		case v == script(false, ""):
			return "(json.lua, peek.lua)"
		case strings.HasSuffix(v, shaSource+openSource):
			return strings.TrimSuffix(v, shaSource+openSource) + "(sha256.lua, open.lua)"
		case strings.HasSuffix(v, rescueSource):
			return strings.TrimSuffix(v, rescueSource) + "(rescue.lua)"
		case strings.HasSuffix(v, guardSource):
			return strings.TrimSuffix(v, guardSource) + "(guard.lua)"
		case strings.HasSuffix(v, loadSource):
			return strings.TrimSuffix(v, loadSource) + "(load.lua)"
		case strings.HasPrefix(v, "-----BEGIN "):
			kind, _, _ := strings.Cut(strings.TrimPrefix(v, "-----BEGIN "), "-")
			return "(PEM " + strings.ToLower(kind) + ")"
		}
	}
	return v
}

// dumpTable prints a table for people.
func dumpTable(t *table.Table) map[string]any {
	var matches []string
	rules, chains := map[string]any{}, map[string]any{}
	for m, r := range t.All() {
		matches = append(matches, matchLine(m)+" -> "+r.Name)
		rules[r.Name] = dumpRule(r)
	}
	for name, c := range t.Chains.All() {
		if name != c.Name {
			name += " (calls itself " + c.Name + ")"
		}
		chains[name] = candidateLines(c.Candidates, false)
	}
	callers := map[string]string{}
	for _, key := range []string{marker + "-client-key-of-the-batch-job", "weir-demo-key", "nobody"} {
		var h identity.Headers
		h.Add("authorization", "Bearer "+key)
		id, err := t.Auth.Authenticate(context.Background(), h, netip.Addr{}, time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
		if err != nil {
			callers[key] = fmt.Sprintf("%d %s", err.HTTPStatus(), http.StatusText(err.HTTPStatus()))
			continue
		}
		callers[key] = fmt.Sprintf("consumer %s, tenant %s, labels %v, scopes %v, %d allow-lists, credential %s",
			id.Consumer, id.Tenant, id.Labels, id.Scopes, len(id.Models), id.Credential)
	}
	return map[string]any{"matches": matches, "rules": rules, "chains": chains, "callers": callers}
}

func dumpCaptures(of map[string]*content.Rule) map[string]any {
	out := map[string]any{}
	for gateway, r := range of {
		models := "every model"
		if r.Models != nil {
			models = fmt.Sprintf("gpt-4o %v, claude-sonnet-4-5 %v, claude %v", r.Models.Match("gpt-4o"), r.Models.Match("claude-sonnet-4-5"), r.Models.Match("claude"))
		}
		out[gateway] = map[string]any{"input": r.Input, "output": r.Output, "models": models, "redact": listed(r.Redact), "maxBytes": r.MaxBytes}
	}
	return out
}

func listed(list []*regexp.Regexp) []string {
	out := []string{}
	for _, re := range list {
		out = append(out, re.String())
	}
	return out
}

func matchLine(m table.Match) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case m.PathExact:
		add("path = %s", m.Path)
	case m.Path != "":
		add("path %s/...", strings.TrimSuffix(m.Path, "/"))
	}
	if m.Method != "" {
		add("method %s", m.Method)
	}
	values := func(kind string, list []table.ValueMatch) {
		for _, v := range list {
			if v.Regexp != nil {
				add("%s %s ~ %s", kind, v.Name, v.Regexp)
			} else {
				add("%s %s = %s", kind, v.Name, v.Value)
			}
		}
	}
	values("header", m.Headers)
	values("query", m.Query)
	if m.Gateways != nil {
		add("only by %s", strings.Join(m.Gateways, "|"))
	}
	if len(m.Models) > 0 {
		add("model %s", strings.Join(m.Models, "|"))
	}
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		add("label %s = %s", k, m.Labels[k])
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func dumpRule(r *table.Rule) map[string]any {
	out := map[string]any{"timeout": r.Timeout.String(), "candidates": candidateLines(r.Candidates, true)}
	if len(r.RequiredScopes) > 0 {
		out["scopes"] = r.RequiredScopes
	}
	variants := map[string]any{}
	for _, mask := range r.Masks([]string{"openai", "anthropic"}) {
		v := r.Variant(mask)
		if v == nil {
			variants[fmt.Sprintf("%04b", mask)] = "missing"
			continue
		}
		line := map[string]any{
			"direct": v.DirectKey, "chain": v.ChainKey, "candidates": candidateLines(v.Candidates, false),
		}
		if v.Order != nil {
			line["order"] = candidateLines(v.Order, false)
		}
		for c, k := range v.First {
			line["from "+c.Backend.ID] = map[string]string{"direct": k.Direct, "chain": k.Chain}
		}
		variants[fmt.Sprintf("%04b", mask)] = line
	}
	out["variants"] = variants
	return out
}

func candidateLines(list []*table.Candidate, full bool) []string {
	var out []string
	for _, c := range list {
		line := candidateName(c)
		if full {
			b := c.Backend
			line += fmt.Sprintf(", bit %04b, weight %d, priority %d; %s at %s%s", c.Bit, c.Weight, c.Priority, b.Dialect.Name, b.Host, b.BasePath)
			for _, m := range slices.Sorted(maps.Keys(b.Models)) {
				if b.Models[m] != m {
					line += fmt.Sprintf("; %s is %s", m, b.Models[m])
				} else {
					line += "; " + m
				}
			}
			for _, cred := range b.Credentials {
				line += fmt.Sprintf("; %s: %s", cred.Name, cred.Value)
				if cred.Versions != nil {
					line += fmt.Sprintf(" %v", cred.Versions)
				}
			}
			if b.Steered {
				line += fmt.Sprintf("; steered, endpoints %v, picked %v, reports %v", b.Endpoints, b.Pick != nil, b.LoadReports)
			}
			if b.DefaultMaxTokens != 0 {
				line += fmt.Sprintf("; max tokens %d", b.DefaultMaxTokens)
			}
		}
		out = append(out, line)
	}
	return out
}
