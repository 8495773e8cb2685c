package compile

import "strings"

// neverPath says why no request has a path that a match asks for; "" where one may have it. Envoy takes the query off and resolves dot segments before
// anything is matched.
func neverPath(path string) string {
	if strings.ContainsAny(path, "?#") {
		return "a path is matched without its query and fragment, so this match can never apply; match parameters by queryParams"
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "paths have neither spaces nor control characters, so this match can never apply; write them percent-encoded"
	}
	for segment := range strings.SplitSeq(path, "/") {
		switch strings.ReplaceAll(strings.ToLower(segment), "%2e", ".") {
		case ".", "..":
			return "the segments . and .. are resolved at the door, so this match can never apply"
		}
	}
	return ""
}
