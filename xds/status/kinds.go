package status

import "github.com/weir-dev/weir/api/v1alpha1"

// resources are the names of kinds in the paths of the API.
var resources = map[string]string{
	"APIKey":         "apikeys",
	"Backend":        "backends",
	"Budget":         "budgets",
	"CachePolicy":    "cachepolicies",
	"Consumer":       "consumers",
	"JWTIssuer":      "jwtissuers",
	"LLMGateway":     "llmgateways",
	"LimitPolicy":    "limitpolicies",
	"LoadPolicy":     "loadpolicies",
	"ReferenceGrant": "referencegrants",
	"Route":          "routes",
	"SessionPolicy":  "sessionpolicies",
}

// path of a kind's objects; all namespaces where namespace is "".
func path(kind, namespace string) string {
	at := "/apis/" + v1alpha1.GroupVersion.String()
	if namespace != "" {
		at += "/namespaces/" + namespace
	}
	return at + "/" + resources[kind]
}
