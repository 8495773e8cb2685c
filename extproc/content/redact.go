package content

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// text is a piece of text as it was collected. raw holds more than is shown, so that an expression that reaches beyond is found.
type text struct {
	raw   string
	limit int // bytes of raw that are shown
}

// span is a range of bytes.
type span struct{ from, to int }

// show is the text as it may be seen: redacted first, and then cut. Marks do not count as text: the result may be longer than
// limit, by a mark for each byte at most.
//
// Every expression sees the text as it was written, whatever another one takes out of it. escaped text (JSON) is searched as it is
// and with its escapes resolved, since whoever reads the span reads it so.
func (r *Rule) show(t text, escaped bool) string {
	limit := min(t.limit, len(t.raw))
	for limit > 0 && limit < len(t.raw) && !utf8.RuneStart(t.raw[limit]) {
		limit--
	}
	hidden := r.matches(t.raw, escaped)
	if len(hidden) == 0 {
		return t.raw[:limit]
	}
	var b strings.Builder
	at := 0
	for _, h := range hidden {
		if h.from >= limit {
			break
		}
		b.WriteString(t.raw[at:h.from])
		b.WriteString(Redacted)
		at = h.to
	}
	if at < limit {
		b.WriteString(t.raw[at:limit])
	}
	return b.String()
}

// matches are the ranges of s that some expression matches, in order; those that touch are one.
func (r *Rule) matches(s string, escaped bool) (out []span) {
	if len(r.Redact) == 0 || s == "" {
		return nil
	}
	plain, places := "", []int(nil)
	if escaped && strings.IndexByte(s, '\\') >= 0 {
		plain, places = unescape(s)
	}
	for _, re := range r.Redact {
		for _, m := range re.FindAllStringIndex(s, -1) {
			out = append(out, span{m[0], m[1]})
		}
		if places == nil {
			continue
		}
		for _, m := range re.FindAllStringIndex(plain, -1) {
			out = append(out, span{places[m[0]], places[m[1]]})
		}
	}
	out = slices.DeleteFunc(out, func(p span) bool { return p.from == p.to }) // "x*" matches between any two characters
	slices.SortFunc(out, func(a, b span) int { return a.from - b.from })
	n := 0
	for _, p := range out {
		if n > 0 && p.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, p.to)
			continue
		}
		out[n] = p
		n++
	}
	return out[:n]
}
