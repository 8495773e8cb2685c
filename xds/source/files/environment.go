package files

import (
	"fmt"
	"regexp"
	"strings"
)

// WhenEnv is an annotation that leaves a document out unless the environment variable it names is set and
// not empty. Folders only: an API server has no environment.
const WhenEnv = "weir.dev/when-env"

// included says whether the document's WhenEnv annotation, if any, is satisfied.
func included(obj map[string]any, env Env) bool {
	meta, _ := obj["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	name, ok := annotations[WhenEnv].(string)
	if !ok {
		return true
	}
	value, found := env(name)
	return found && value != ""
}

// maxNesting is how deep variables may stand in each other's defaults.
const maxNesting = 4

// variable is ${NAME} or ${NAME:-default}, as in a shell.
var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^${}]*))?\}`)

// expandURL fills in the environment variables of Backend.spec.url, which providers' own SDKs read from the
// environment as well. Nothing else is expanded: a document should say what it means.
func expandURL(obj map[string]any, env Env) error {
	spec, _ := obj["spec"].(map[string]any)
	text, ok := spec["url"].(string)
	if !ok || obj["kind"] != "Backend" || !strings.Contains(text, "${") {
		return nil
	}
	missing := ""
	// The innermost first, so that a default may hold another variable.
	for range maxNesting {
		text = variable.ReplaceAllStringFunc(text, func(s string) string {
			m := variable.FindStringSubmatch(s)
			if value, found := env(m[1]); found && value != "" {
				return value
			}
			if m[2] == "" {
				missing = m[1]
			}
			return m[3]
		})
	}
	if missing != "" {
		return fmt.Errorf("environment variable %s is not set: set it, or give a default: ${%s:-https://...}", missing, missing)
	}
	spec["url"] = text
	return nil
}
