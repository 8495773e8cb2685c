package harness

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/sim"
)

// DefaultKey is the API key that Start lets in, of the consumer "app".
const DefaultKey = "test-key-0123456789"

// Document renders one object. spec is YAML; its own indentation does not matter as long as it is even.
func Document(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata:\n  name: %s\nspec:\n%s", kind, name, indent(spec))
}

// indent moves the lines two spaces to the right of where the first of them begins.
func indent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	margin := len(lines[0]) - len(strings.TrimLeft(lines[0], " \t"))
	var b strings.Builder
	for _, l := range lines {
		if strings.TrimSpace(l) == "" {
			continue
		}
		cut := min(margin, len(l)-len(strings.TrimLeft(l, " \t")))
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(l[cut:], "\t", "  "))
	}
	return b.String()
}

// Join puts documents into one file.
func Join(documents ...string) string { return strings.Join(documents, "---\n") }

// Listener renders the LLMGateway "e2e" with one listener; spec has further fields as YAML, or is empty. `weir run
// --listen` replaces the address.
func Listener(spec string) string {
	return Document("LLMGateway", "e2e", "listeners: [{name: http, address: 127.0.0.1, port: 8080}]\n"+strings.TrimSpace(indent0(spec)))
}

// indent0 moves the lines to the left margin.
func indent0(text string) string {
	return strings.ReplaceAll(strings.TrimPrefix("\n"+indent(text), "\n  "), "\n  ", "\n")
}

// Consumer renders a Consumer and an APIKey of the same name that lets it in. spec of the consumer may be empty.
func Consumer(name, key, spec string) string {
	if strings.TrimSpace(spec) == "" {
		spec = "tenant: " + name
	}
	return Join(Document("Consumer", name, spec), APIKey(name, name, key, ""))
}

// APIKey renders an APIKey; spec has further fields as YAML, or is empty.
func APIKey(name, consumer, key, spec string) string {
	return Document("APIKey", name, fmt.Sprintf("consumer: %s\nhash: %s\n%s", consumer, identity.HashKey(key), strings.TrimSpace(indent0(spec))))
}

// Route renders a Route.
func Route(name, spec string) string { return Document("Route", name, spec) }

// Backend is a Backend object and the secret that belongs to it.
type Backend struct {
	Name string
	// Sim that serves it, which gives dialect, URL and models unless they are set here.
	Sim     *Sim
	Dialect string
	URL     string
	// Models that callers may ask for, written "name" or "name=upstream name". Nil: those of Sim.
	Models []string
	// AnyModel leaves the list of models out.
	AnyModel bool
	// Key is the credential towards the provider; "" is BackendKey(Name), "-" is none.
	Key string
	// Spec has further fields as YAML.
	Spec string
}

// BackendKey is the credential of the backend of that name, unless it says another.
func BackendKey(name string) string { return "upstream-secret-of-" + name }

func (b Backend) key() string {
	if b.Key == "" {
		return BackendKey(b.Name)
	}
	return b.Key
}

// SecretFile is the name of the file with the backend's credential, beside its document.
func (b Backend) SecretFile() string { return b.Name + ".secret.txt" }

// YAML renders the Backend.
func (b Backend) YAML() string {
	var s strings.Builder
	dialect, url, models := b.Dialect, b.URL, b.Models
	if b.Sim != nil {
		if dialect == "" {
			dialect = string(b.Sim.Dialect())
		}
		if url == "" {
			url = b.Sim.BaseURL()
		}
		if models == nil {
			models = b.Sim.Models()
		}
	}
	fmt.Fprintf(&s, "dialect: %s\n", dialect)
	if url != "" {
		fmt.Fprintf(&s, "url: %s\n", url)
	}
	if b.key() != "-" {
		fmt.Fprintf(&s, "credential: {secretRef: {file: %s}}\n", b.SecretFile())
	}
	if len(models) > 0 && !b.AnyModel {
		s.WriteString("models:\n")
		for _, m := range models {
			name, upstream, renamed := strings.Cut(m, "=")
			fmt.Fprintf(&s, "  - name: %q\n", name)
			if renamed {
				fmt.Fprintf(&s, "    upstreamName: %q\n", upstream)
			}
		}
	}
	s.WriteString(indent0(b.Spec))
	return Document("Backend", b.Name, s.String())
}

// basePath is what stands behind host and port in the base URL of a dialect's provider.
func basePath(d sim.Dialect) string {
	switch d {
	case sim.OpenAI:
		return "/v1"
	case sim.DashScope:
		return "/api/v1"
	}
	return ""
}
