// Package redact takes out of what callers send what may be a secret, before it is written anywhere.
package redact

import "strings"

const (
	// maxSegments of a path are shown.
	maxSegments = 16
	// maxSegment bytes is the longest segment that is shown. Keys are longer, as a rule.
	maxSegment = 24
	// maxLetters in a row are a word, and maxDigits after them its number: "sonnet", "team12", "2024" not.
	maxLetters, maxDigits = 14, 3
	// hidden stands for a segment that is not shown.
	hidden = "*"
)

// Path makes a path of a URL fit to be logged: a segment that may be a credential is shown as "*", and a query is left out. Callers put
// keys there, in base URLs like https://gateway/KEY/v1 or by mistake. What is shown are lower-case words with small numbers, joined by
// hyphens, dots and underscores, as those of every endpoint are. Path of a result is the result.
func Path(path string) string {
	path, _, _ = strings.Cut(path, "?")
	if fit(path) {
		return path // nearly all are
	}
	var b strings.Builder
	for i, s := range strings.SplitN(path, "/", maxSegments+1) {
		if i > 0 {
			b.WriteByte('/')
		}
		if i == maxSegments || !harmless(s) {
			s = hidden
		}
		b.WriteString(s)
	}
	return b.String()
}

// fit says whether a path is shown as it is.
func fit(path string) bool {
	n := 0
	for s := range strings.SplitSeq(path, "/") {
		if n++; n > maxSegments || !harmless(s) {
			return false
		}
	}
	return true
}

// harmless says whether a segment is made of words. It is also for one that hides another.
func harmless(s string) bool {
	if len(s) > maxSegment {
		return false
	}
	if s == hidden || s == "v1beta" {
		return true
	}
	letters, digits := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '-' || c == '_' || c == '.':
			letters, digits = 0, 0
		case c >= 'a' && c <= 'z' && digits == 0:
			letters++
		case c >= '0' && c <= '9':
			digits++
		default:
			return false
		}
		if letters > maxLetters || digits > maxDigits {
			return false
		}
	}
	return true
}
