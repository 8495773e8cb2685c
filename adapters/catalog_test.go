package adapters

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/openai"
)

// side stands for either face where only its presence matters.
type side struct {
	canon.Inbound
	canon.Outbound
}

func catalog(t testing.TB) *Set {
	t.Helper()
	s, err := NewSet(Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func headers(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestCatalog(t *testing.T) {
	s := catalog(t)
	for _, name := range []string{"openai", "anthropic", "dashscope"} {
		if !slices.Contains(s.Names(), name) {
			t.Errorf("names %v lack %s", s.Names(), name)
		}
	}
	for _, name := range s.Names() {
		d, ok := s.Get(name)
		if !ok || d.Name != name || d.Out == nil {
			t.Errorf("%s: got %q, %v, Out %v", name, d.Name, ok, d.Out)
		}
	}
	if _, ok := s.Get("OpenAI"); ok {
		t.Error("names are compared without case")
	}
}

func TestClassify(t *testing.T) {
	s := catalog(t)
	anthropic := []string{"anthropic-version", "2023-06-01"}
	tests := []struct {
		name, method, path string
		header             []string
		want               string
	}{
		{"chat", "POST", "/v1/chat/completions", nil, "found openai chat"},
		{"prefix", "POST", "/team-a/v1/chat/completions", nil, "found openai chat prefix=/team-a"},
		{"long prefix", "POST", "/a/b/v1/v1/chat/completions", nil, "found openai chat prefix=/a/b/v1"},
		{"trailing slash", "POST", "/v1/chat/completions/", nil, "found openai chat"},
		{"two trailing slashes", "POST", "/v1/chat/completions//", nil, "unknown openai"},
		{"double slash", "POST", "//v1/chat/completions", nil, "unknown openai"},
		{"double slash inside", "POST", "/v1//chat/completions", nil, "unknown openai"},
		{"part of a segment", "POST", "/xv1/chat/completions", nil, "unknown openai"},
		{"no slash in front", "POST", "x/v1/chat/completions", nil, "unknown openai"},
		{"root missing", "POST", "/chat/completions", nil, "unknown openai"},
		{"upper case", "POST", "/V1/chat/completions", nil, "unknown openai"},
		{"encoded letter", "POST", "/v1/ch%61t/completions", nil, "unknown openai"},
		{"encoded slash", "POST", "/v1/chat%2Fcompletions", nil, "unknown openai"},
		{"chat with Anthropic's header", "POST", "/v1/chat/completions", anthropic, "found openai chat"},
		{"responses", "POST", "/v1/responses", nil, "found openai responses"},
		{"responses by WebSocket", "GET", "/v1/responses", nil, "wrong method openai responses allow=POST"},
		{"embeddings", "POST", "/v1/embeddings", nil, "found openai embeddings"},
		{"completions are not chat", "POST", "/v1/completions", nil, "found openai completions"},
		{"messages", "POST", "/v1/messages", nil, "found anthropic chat"},
		{"messages with prefix", "POST", "/team-a/v1/messages", anthropic, "found anthropic chat prefix=/team-a"},
		{"count tokens", "POST", "/v1/messages/count_tokens", nil, "found anthropic count_tokens"},
		{"models", "GET", "/v1/models", nil, "found openai models"},
		{"models for Anthropic", "GET", "/x/v1/models", anthropic, "found anthropic models prefix=/x"},
		{"model", "GET", "/v1/models/gpt-x", nil, "found openai model model=gpt-x"},
		{"model for Anthropic", "GET", "/v1/models/claude-x/", anthropic, "found anthropic model model=claude-x"},
		{"model with slash", "GET", "/v1/models/meta%2FLlama%203", nil, "found openai model model=meta/Llama 3"},
		{"model in broken encoding", "GET", "/v1/models/a%2", nil, "unknown openai"},
		{"model of two segments", "GET", "/v1/models/meta/llama", nil, "unknown openai"},
		{"model without name", "GET", "/v1/models//", nil, "unknown openai"},
		{"model called models", "GET", "/v1/models/models", nil, "found openai model model=models"},
		{"model whose prefix is like it", "GET", "/v1/models/v1/models", nil, "found openai models prefix=/v1/models"},
		{"wrong method", "GET", "/v1/chat/completions", nil, "wrong method openai chat allow=POST"},
		{"method in lower case", "post", "/v1/chat/completions", nil, "wrong method openai chat allow=POST"},
		{"wrong method for Anthropic", "DELETE", "/p/v1/messages", nil, "wrong method anthropic chat prefix=/p allow=POST"},
		{"wrong method on models", "POST", "/v1/models", nil, "wrong method openai models allow=GET"},
		{"wrong method on Anthropic's models", "POST", "/v1/models", anthropic, "wrong method anthropic models allow=GET"},
		{"nothing", "GET", "/", nil, "unknown openai"},
		{"empty", "GET", "", nil, "unknown openai"},
		{"unknown with header", "GET", "/v1/files", anthropic, "unknown anthropic"},
		{"unknown under messages", "POST", "/v1/messages/batches", nil, "unknown anthropic"},
		{"unknown under chat", "GET", "/v1/chat/completions/1", nil, "unknown openai"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := show(s.Classify(tt.method, tt.path, headers(tt.header...))); got != tt.want {
				t.Errorf("%s %s:\n got %s\nwant %s", tt.method, tt.path, got, tt.want)
			}
		})
	}
}

func show(m Match) string {
	out := [...]string{"unknown", "wrong method", "found"}[m.Outcome] + " " + m.Dialect.Name
	if m.Endpoint != nil {
		out += " " + string(m.Endpoint.Op)
	}
	if m.Prefix != "" {
		out += " prefix=" + m.Prefix
	}
	if m.Model != "" {
		out += " model=" + m.Model
	}
	if m.Allow != nil {
		out += " allow=" + strings.Join(m.Allow, ",")
	}
	return out
}

// TestClassifyThird adds a dialect with a header of its own: nothing but its description is needed.
func TestClassifyThird(t *testing.T) {
	third := canon.Dialect{Name: "third", Header: "x-third", In: side{}, Endpoints: []canon.Endpoint{
		{Op: canon.OpModels, Method: "GET", Path: "/v1/models"},
		{Op: canon.OpModel, Method: "GET", Path: "/v1/models/{model}"},
		{Op: canon.OpChat, Method: "POST", Path: "/v1/models/{model}"},
		{Op: canon.OpChat, Method: "POST", Path: "/speak"},
		{Op: canon.OpModels, Method: "GET", Path: "/speak"},
	}}
	s, err := NewSet(append([]canon.Dialect{third}, Catalog()...)...)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ method, path, header, want string }{
		{"GET", "/v1/models", "x-third", "found third models"},
		{"GET", "/v1/models", "anthropic-version", "found anthropic models"},
		{"GET", "/v1/models", "", "found openai models"},
		{"POST", "/v1/models/m", "", "found third chat model=m"}, // only one dialect has it
		{"PUT", "/v1/models/m", "x-third", "wrong method third model model=m allow=GET,POST"},
		{"PUT", "/speak", "", "wrong method third chat allow=GET,POST"},
		{"GET", "/what", "", "unknown openai"},
		{"GET", "/what", "x-third", "unknown third"},
	}
	for _, tt := range tests {
		if got := show(s.Classify(tt.method, tt.path, headers(tt.header, "1"))); got != tt.want {
			t.Errorf("%s %s with %q:\n got %s\nwant %s", tt.method, tt.path, tt.header, got, tt.want)
		}
	}
}

func TestClassifyDoesNotAllocate(t *testing.T) {
	s := catalog(t)
	header := headers("anthropic-version", "2023-06-01")
	for _, request := range [][2]string{
		{"POST", "/team-a/v1/chat/completions"}, {"POST", "/v1/messages"}, {"GET", "/v1/models"}, {"GET", "/v1/models/m"}, {"GET", "/nothing"},
	} {
		if n := testing.AllocsPerRun(100, func() { s.Classify(request[0], request[1], header) }); n != 0 {
			t.Errorf("%s: %v allocations", request, n)
		}
	}
}

func TestNewSetRefuses(t *testing.T) {
	good := openai.Dialect()
	edit := func(f func(*canon.Dialect)) canon.Dialect {
		d := good
		d.Endpoints = slices.Clone(good.Endpoints)
		f(&d)
		return d
	}
	tests := []struct {
		name string
		in   []canon.Dialect
		want string
	}{
		{"nothing", nil, "a set of dialects must not be empty"},
		{"twice", []canon.Dialect{good, good}, `dialect "openai" is listed twice`},
		{"name", []canon.Dialect{edit(func(d *canon.Dialect) { d.Name = "Open AI" })}, `dialect "Open AI": the name must be lower-case letters, digits and hyphens`},
		{"no face", []canon.Dialect{edit(func(d *canon.Dialect) { d.In, d.Out = nil, nil })}, `dialect "openai": it needs In, Out or both`},
		{"root", []canon.Dialect{edit(func(d *canon.Dialect) { d.Root = "/v1/" })}, `dialect "openai": root "/v1/" must start with a slash and not end with one`},
		{"no endpoints", []canon.Dialect{edit(func(d *canon.Dialect) { d.Endpoints = nil })}, `dialect "openai": it has no endpoints`},
		{"header", []canon.Dialect{edit(func(d *canon.Dialect) { d.Header = "X-A" })}, `dialect "openai": header "X-A" must be lower case`},
		{"path", []canon.Dialect{edit(func(d *canon.Dialect) { d.Endpoints[0].Path = "chat" })}, `dialect "openai": endpoint path "chat" must start with a slash, not end with one, and have {model} only as its last segment`},
		{"model inside", []canon.Dialect{edit(func(d *canon.Dialect) { d.Endpoints[0].Path = "/{model}/x" })}, `dialect "openai": endpoint path "/{model}/x" must start with a slash, not end with one, and have {model} only as its last segment`},
		{"method", []canon.Dialect{edit(func(d *canon.Dialect) { d.Endpoints[0].Method = "post" })}, `dialect "openai": endpoint /chat/completions needs an operation and a method in capitals`},
		{"endpoint twice", []canon.Dialect{edit(func(d *canon.Dialect) { d.Endpoints[1] = d.Endpoints[0] })}, `dialect "openai": endpoint POST /chat/completions is listed twice`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewSet(tt.in...); fmt.Sprint(err) != tt.want {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("POST", "/team-a/v1/chat/completions", false)
	f.Add("GET", "/v1/models/a%2Fb", true)
	s := catalog(f)
	f.Fuzz(func(t *testing.T, method, path string, anthropic bool) {
		header := headers()
		if anthropic {
			header = headers("anthropic-version", "1")
		}
		m := s.Classify(method, path, header)
		switch {
		case m.Dialect == nil, m.Outcome != Unknown && m.Endpoint == nil, (m.Outcome == WrongMethod) != (len(m.Allow) > 0):
			t.Fatalf("%q %q gives %+v", method, path, m)
		case m.Outcome == Found && m.Endpoint.Method != method:
			t.Fatalf("%q %q found %s", method, path, m.Endpoint.Method)
		case !strings.HasPrefix(path, m.Prefix):
			t.Fatalf("%q has no prefix %q", path, m.Prefix)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	s := catalog(b)
	header := headers()
	b.ReportAllocs()
	for b.Loop() {
		s.Classify("POST", "/team-a/v1/chat/completions", header)
	}
}
