package files

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDocumentsThatDependOnTheEnvironment(t *testing.T) {
	const doc = `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata:
  name: openai
  annotations:
    weir.dev/when-env: OPENAI_API_KEY
spec:
  dialect: openai
  url: URL
`
	for name, c := range map[string]struct {
		url     string
		env     map[string]string
		want    string // the URL; "" when the document is left out
		problem string
	}{
		"left out without the variable": {url: "https://a.test/v1"},
		"left out with an empty one":    {url: "https://a.test/v1", env: map[string]string{"OPENAI_API_KEY": ""}},
		"kept with it":                  {url: "https://a.test/v1", env: map[string]string{"OPENAI_API_KEY": "k"}, want: "https://a.test/v1"},
		"default": {url: `"${OPENAI_BASE_URL:-https://a.test/v1}"`, env: map[string]string{"OPENAI_API_KEY": "k"},
			want: "https://a.test/v1"},
		"empty takes the default": {url: `"${OPENAI_BASE_URL:-https://a.test/v1}"`,
			env: map[string]string{"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": ""}, want: "https://a.test/v1"},
		"set": {url: `"${OPENAI_BASE_URL:-https://a.test/v1}"`,
			env: map[string]string{"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://b.test:81/x"}, want: "http://b.test:81/x"},
		"part": {url: `"https://${HOST}/v1"`, env: map[string]string{"OPENAI_API_KEY": "k", "HOST": "c.test"}, want: "https://c.test/v1"},
		"a variable in a default": {url: `"${A:-${B:-https://d.test}/v1}"`, env: map[string]string{"OPENAI_API_KEY": "k", "B": "https://b.test"},
			want: "https://b.test/v1"},
		"the default of a default": {url: `"${A:-${B:-https://d.test}/v1}"`, env: map[string]string{"OPENAI_API_KEY": "k"},
			want: "https://d.test/v1"},
		"no default": {url: `"${OPENAI_BASE_URL}"`, env: map[string]string{"OPENAI_API_KEY": "k"},
			problem: "environment variable OPENAI_BASE_URL is not set"},
		"what it is set to is checked": {url: `"${OPENAI_BASE_URL}"`,
			env: map[string]string{"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "not a url"}, problem: "absolute http or https URL"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(strings.Replace(doc, "URL", c.url, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			objs, problems := Load(dir, func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
			if c.problem != "" {
				if len(problems) == 0 || !strings.Contains(problems[0].String(), c.problem) || problems[0].Line != 10 {
					t.Fatalf("problems are %v, want one with %q at the url", problems, c.problem)
				}
				return
			}
			if len(problems) != 0 {
				t.Fatalf("unexpected problems %v", problems)
			}
			got := ""
			if len(objs.Backends) > 0 {
				got = objs.Backends[0].Spec.URL
			}
			if got != c.want {
				t.Errorf("url is %q, want %q", got, c.want)
			}
		})
	}
}
