package console

import (
	"bufio"
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"text/template"
	"unicode"
)

//go:embed clients/*.tmpl
var clientFiles embed.FS

// keyPlaceholder stands where the caller's key belongs.
const keyPlaceholder = "YOUR_WEIR_API_KEY"

// modelPlaceholder stands for a model where the gateway lists none.
const modelPlaceholder = "MODEL"

// SetupOptions are what a Setup needs. All fields are required.
type SetupOptions struct {
	// URLs are the base URLs that clients reach this gateway by, without a slash at the end, the best first. They may depend on how
	// the console itself was reached.
	URLs func(*http.Request) []string
	// Models that some caller may ask for, and Callers with those that each may.
	Models  func() []SetupModel
	Callers func() []SetupCaller
}

// SetupModel is a model that callers may ask for.
type SetupModel struct {
	ID string `json:"id"`
	// Backend that serves it first.
	Backend string `json:"backend"`
}

// SetupCaller is a consumer and the models that it may ask for.
type SetupCaller struct {
	// ID is "namespace/name".
	ID     string   `json:"id"`
	Tenant string   `json:"tenant"`
	Models []string `json:"models"`
}

// Setup says how clients are set up for this gateway.
type Setup struct {
	opts    SetupOptions
	clients []client
}

// client is how one client is set up.
type client struct {
	id, name, about string
	snippets        []snippet
}

type snippet struct {
	title, language string
	text            *template.Template
}

// values are what snippets are filled with.
type values struct{ Base, Key, Model string }

// NewSetup reads the snippets.
func NewSetup(o SetupOptions) (*Setup, error) {
	s := &Setup{opts: o}
	names, err := fs.Glob(clientFiles, "clients/*.tmpl")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(clientFiles, name)
		if err != nil {
			return nil, err
		}
		c, err := parseClient(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		_, c.id, _ = strings.Cut(strings.TrimSuffix(path.Base(name), ".tmpl"), "-") // the number before it sorts
		s.clients = append(s.clients, c)
	}
	return s, nil
}

// parseClient reads "name: ..." and "about: ...", and then snippets, each after a line "--- language title".
func parseClient(text []byte) (c client, err error) {
	var body strings.Builder
	end := func() error {
		if len(c.snippets) == 0 {
			return nil
		}
		last := &c.snippets[len(c.snippets)-1]
		last.text, err = template.New(last.title).Funcs(quoting).Option("missingkey=error").Parse(body.String())
		body.Reset()
		return err
	}
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		line := in.Text()
		head, isHead := strings.CutPrefix(line, "--- ")
		switch key, value, _ := strings.Cut(line, ": "); {
		case isHead:
			if err := end(); err != nil {
				return c, err
			}
			language, title, _ := strings.Cut(head, " ")
			c.snippets = append(c.snippets, snippet{language: language, title: title})
		case len(c.snippets) > 0:
			body.WriteString(line + "\n")
		case key == "name":
			c.name = value
		case key == "about":
			c.about = value
		default:
			return c, fmt.Errorf("%q is neither name, about nor the head of a snippet", line)
		}
	}
	if err := end(); err != nil {
		return c, err
	}
	if c.name == "" || len(c.snippets) == 0 {
		return c, errors.New("a client needs a name and a snippet")
	}
	return c, nil
}

// quoting is how texts are written within snippets.
var quoting = template.FuncMap{
	// quote makes a string of JSON, which is one of Python, JavaScript and TOML as well.
	"quote": func(s string) (string, error) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		err := enc.Encode(s)
		return strings.TrimSuffix(b.String(), "\n"), err
	},
	// sh makes one word of a shell.
	"sh": func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" },
}

// setupBody is the answer of /api/setup.
type setupBody struct {
	// BaseURL is what the snippets are filled with, one of BaseURLs.
	BaseURL  string        `json:"baseUrl"`
	BaseURLs []string      `json:"baseUrls"`
	Model    string        `json:"model"`
	Models   []SetupModel  `json:"models"`
	Callers  []SetupCaller `json:"callers"`
	// KeyPlaceholder stands in the snippets where the key belongs.
	KeyPlaceholder string       `json:"keyPlaceholder"`
	Clients        []clientBody `json:"clients"`
}

type clientBody struct {
	ID       string        `json:"id"`
	Name     string        `json:"name"`
	About    string        `json:"about"`
	Snippets []snippetBody `json:"snippets"`
}

type snippetBody struct {
	Title    string `json:"title"`
	Language string `json:"language"`
	Text     string `json:"text"`
}

// maxModel is the longest name of a model, in bytes.
const maxModel = 256

// ServeHTTP answers with the snippets, filled in. ?model=NAME fills in another model than the first, ?url=URL another of the base URLs.
func (s *Setup) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	body := setupBody{BaseURLs: s.opts.URLs(r), Models: s.opts.Models(), Callers: s.opts.Callers(), KeyPlaceholder: keyPlaceholder, Model: q.Get("model"), Clients: []clientBody{}}
	if len(body.BaseURLs) == 0 {
		refuse(w, r, http.StatusServiceUnavailable, "No listener", "The gateway has no listener yet.")
		return
	}
	body.BaseURL = body.BaseURLs[0]
	if want := q.Get("url"); want != "" {
		body.BaseURL = ""
		for _, u := range body.BaseURLs {
			if u == want {
				body.BaseURL = u
			}
		}
		if body.BaseURL == "" {
			refuse(w, r, http.StatusBadRequest, "Unknown URL", "url must be one of baseUrls.")
			return
		}
	}
	switch {
	case len(body.Model) > maxModel || strings.ContainsFunc(body.Model, unicode.IsControl):
		refuse(w, r, http.StatusBadRequest, "No model's name", "model is not the name of a model.")
		return
	case body.Model == "" && len(body.Models) > 0:
		body.Model = body.Models[0].ID
	case body.Model == "":
		body.Model = modelPlaceholder
	}
	for _, c := range s.clients {
		out := clientBody{ID: c.id, Name: c.name, About: c.about}
		for _, t := range c.snippets {
			var b strings.Builder
			if err := t.text.Execute(&b, values{body.BaseURL, keyPlaceholder, body.Model}); err != nil {
				refuse(w, r, http.StatusInternalServerError, "A snippet is broken", "The snippet "+t.title+" cannot be filled in.")
				return
			}
			out.Snippets = append(out.Snippets, snippetBody{t.title, t.language, b.String()})
		}
		body.Clients = append(body.Clients, out)
	}
	writeJSON(w, body)
}
