package compile

import (
	"slices"
	"strings"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/source"
)

// OwnerOf is the object that a resource of Envoy's was made for, by the type and the name of the resource. ok is false for what was made of
// several objects, or of none.
func OwnerOf(typeURL, name string) (_ source.ObjectRef, ok bool) {
	parts := strings.Split(name, "/")
	if typeURL == resourcev3.ScopedRouteType { // NAMESPACE/ROUTE, or NAMESPACE/ROUTE/RULE
		if len(parts) < 2 {
			return source.ObjectRef{}, false
		}
		return source.ObjectRef{Kind: "Route", Namespace: parts[0], Name: parts[1]}, true
	}
	if parts[0] == "certificate" {
		parts = parts[1:]
	}
	if len(parts) < 4 { // with what tells several of one object apart
		return source.ObjectRef{}, false
	}
	kind := map[string]string{"backend": "Backend", "credential": "Backend", "gateway": "LLMGateway"}[parts[0]]
	return source.ObjectRef{Kind: kind, Namespace: parts[1], Name: parts[2]}, kind != ""
}

// Blamed finds the objects that a refusal of Envoy's may be about: named are those of the resources that its words name, and sent those of all
// the resources that it speaks of.
func Blamed(typeURL string, names []string, words string) (named, sent []source.ObjectRef) {
	add := func(to []source.ObjectRef, ref source.ObjectRef) []source.ObjectRef {
		if slices.Contains(to, ref) {
			return to
		}
		return append(to, ref)
	}
	seen := map[source.ObjectRef]bool{}
	for _, name := range names {
		ref, ok := OwnerOf(typeURL, name)
		if !ok {
			continue
		}
		if !seen[ref] {
			seen[ref] = true
			sent = append(sent, ref)
		}
		if mentions(words, name) {
			named = add(named, ref)
		}
	}
	return named, sent
}

// mentions says whether words have a name in them that does not go on at either end.
func mentions(words, name string) bool {
	for at := 0; ; {
		i := strings.Index(words[at:], name)
		if i < 0 {
			return false
		}
		begin, end := at+i, at+i+len(name)
		if (begin == 0 || !inName(words[begin-1])) && !goesOn(words[end:]) {
			return true
		}
		at = begin + 1
	}
}

// goesOn says whether a name that ends before rest is the beginning of a longer one. A dot or the like may end a sentence.
func goesOn(rest string) bool {
	return rest != "" && (inName(rest[0]) && rest[0] != '.' || rest[0] == '.' && len(rest) > 1 && inName(rest[1]))
}

func inName(c byte) bool {
	return c == '/' || c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
