// Package tokens is the simulators' own tokenizer and prompt cache. The tokenizer is simple, honest
// and reversible: the tokens of a text, joined, are the text; a text cut after a token has the same
// tokens up to there. So counts in usage, max_tokens and streamed pieces always agree.
package tokens

import (
	"unicode"
	"unicode/utf8"
)

// maxWord is the longest piece of a word in bytes. Longer words take several tokens, as they do in BPE vocabularies.
const maxWord = 8

// Split returns the tokens of a text: words with their leading space (in pieces of 8 bytes), up to
// three digits, single CJK characters, emoji and punctuation marks, runs of white space.
func Split(s string) []string {
	out := make([]string, 0, len(s)/5+1)
	for len(s) > 0 {
		n := next(s)
		out = append(out, s[:n])
		s = s[n:]
	}
	return out
}

// Count returns the number of tokens of a text.
func Count(s string) int {
	c := 0
	for len(s) > 0 {
		s = s[next(s):]
		c++
	}
	return c
}

// next returns the length in bytes of the first token of a text that is not empty.
func next(s string) int {
	i := 0
	if s[0] == ' ' && len(s) > 1 && wordLen(s[1:]) > 0 {
		i = 1
	}
	if c := s[i]; c >= '0' && c <= '9' {
		j := i
		for j < len(s) && j-i < 3 && s[j] >= '0' && s[j] <= '9' {
			j++
		}
		return j
	}
	if wordLen(s[i:]) > 0 {
		start := i
		for i < len(s) {
			n := wordLen(s[i:])
			if n == 0 || i-start+n > maxWord || s[i] >= '0' && s[i] <= '9' {
				break
			}
			i += n
		}
		return i
	}
	if white(s[0]) {
		j := 0
		for j < len(s) && white(s[j]) {
			if s[j] == ' ' && j > 0 && j+1 < len(s) && wordLen(s[j+1:]) > 0 {
				break
			}
			j++
		}
		return j
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}

func white(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// wordLen returns the length of the first rune when it can be part of a word, else 0. Runes from
// U+2E80 up (CJK and beyond) stand alone.
func wordLen(s string) int {
	if len(s) == 0 {
		return 0
	}
	c := s[0]
	if c < utf8.RuneSelf {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
			return 1
		}
		return 0
	}
	r, n := utf8.DecodeRuneInString(s)
	if r != utf8.RuneError && r < 0x2E80 && unicode.IsLetter(r) {
		return n
	}
	return 0
}
