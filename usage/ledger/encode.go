package ledger

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	// maxText is the most bytes of one text in an entry. Callers choose some of them, such as the model; what is
	// longer is cut off, so that nobody can fill the ledger with one request.
	maxText = 1024
	// maxLine is the longest line that is read. The longest that is written, with every byte of every text escaped,
	// is well below.
	maxLine = 256 << 10
)

// appendEntry appends an entry as one line of JSON, without the line feed. It writes what encoding/json would read
// as the same entry, without its cost: entries are written for every request.
func appendEntry(b []byte, e *Entry) []byte {
	b = appendHead(b, e.ID, e.Time)
	b = appendText(b, "requestId", e.RequestID)
	b = appendText(b, "tenant", e.Tenant)
	b = appendText(b, "namespace", e.Namespace)
	b = appendText(b, "consumer", e.Consumer)
	b = appendText(b, "credential", e.Credential)
	b = appendText(b, "gateway", e.Gateway)
	b = appendText(b, "route", e.Route)
	b = appendText(b, "backend", e.Backend)
	b = appendText(b, "model", e.Model)
	b = appendText(b, "upstreamModel", e.UpstreamModel)
	b = appendText(b, "operation", e.Operation)
	b = appendText(b, "dialect", e.Dialect)
	b = appendFlag(b, "stream", e.Stream)
	b = appendInt(b, "status", int64(e.Status))
	b = appendInt(b, "attempts", int64(e.Attempts))
	b = appendTokens(b, "tokens", e.Tokens)
	b = appendInt(b, "costNanos", e.Cost)
	b = appendText(b, "currency", e.Currency)
	b = appendText(b, "priceVersion", e.PriceVersion)
	b = appendTokens(b, "savedTokens", e.SavedTokens)
	b = appendInt(b, "savedCostNanos", e.SavedCost)
	b = appendInt(b, "ttftNanos", int64(e.TTFT))
	b = appendInt(b, "durationNanos", int64(e.Duration))
	b = appendText(b, "cache", e.Cache)
	b = appendText(b, "purpose", e.Purpose)
	b = appendFlag(b, "void", e.Void)
	b = appendFlag(b, "estimated", e.Estimated)
	b = appendFlag(b, "aborted", e.Aborted)
	b = appendFlag(b, "interrupted", e.Interrupted)
	b = appendFlag(b, "unpriced", e.Unpriced)
	b = appendFlag(b, "translated", e.Translated)
	b = appendFlag(b, "cached", e.Cached)
	b = appendFlag(b, "cut", e.Cut)
	return append(b, '}')
}

// appendIntent is appendEntry for an intent.
func appendIntent(b []byte, i *Intent) []byte {
	b = appendHead(b, i.ID, i.Time)
	b = appendText(b, "requestId", i.RequestID)
	b = appendText(b, "tenant", i.Tenant)
	b = appendText(b, "namespace", i.Namespace)
	b = appendText(b, "consumer", i.Consumer)
	b = appendText(b, "credential", i.Credential)
	b = appendText(b, "gateway", i.Gateway)
	b = appendText(b, "route", i.Route)
	b = appendText(b, "backend", i.Backend)
	b = appendText(b, "model", i.Model)
	b = appendText(b, "upstreamModel", i.UpstreamModel)
	b = appendText(b, "operation", i.Operation)
	b = appendText(b, "dialect", i.Dialect)
	b = appendFlag(b, "stream", i.Stream)
	b = appendTokens(b, "tokens", i.Tokens)
	b = appendInt(b, "costNanos", i.Cost)
	b = appendText(b, "currency", i.Currency)
	b = appendText(b, "priceVersion", i.PriceVersion)
	b = appendText(b, "cache", i.Cache)
	b = appendText(b, "purpose", i.Purpose)
	b = appendFlag(b, "unpriced", i.Unpriced)
	return append(b, '}')
}

func appendHead(b []byte, id string, t time.Time) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, id)
	b = append(b, `,"time":"`...)
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

func appendTokens(b []byte, name string, t Tokens) []byte {
	if t == (Tokens{}) {
		return b
	}
	b = append(appendName(b, name), '{')
	n := len(b)
	b = appendInt(b, "input", t.Input)
	b = appendInt(b, "cacheRead", t.CacheRead)
	b = appendInt(b, "cacheWrite", t.CacheWrite)
	b = appendInt(b, "output", t.Output)
	b = appendInt(b, "reasoning", t.Reasoning)
	// The first one has a comma before it that does not belong into an object of its own.
	b = append(b[:n], b[n+1:]...)
	return append(b, '}')
}

// appendName appends the separator and the name; names need no escaping.
func appendName(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

func appendText(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(appendName(b, name), s)
}

func appendInt(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(appendName(b, name), n, 10)
}

func appendFlag(b []byte, name string, on bool) []byte {
	if !on {
		return b
	}
	return append(appendName(b, name), "true"...)
}

// appendString appends a JSON string of at most maxText bytes of s. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	s = clip(s)
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[start:i]...)
				b = append(b, `\ufffd`...)
				start = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' || c == 0x7f {
			b = append(b, s[start:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			start = i + 1
		}
		i++
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// clip cuts a text to maxText bytes, at the beginning of a character.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// decodeEntry reads a line. Fields that this version does not know are passed over.
func decodeEntry(line []byte, e *Entry) error {
	*e = Entry{}
	if err := json.Unmarshal(line, e); err != nil {
		return err
	}
	if e.Tokens.negative() || e.Cost < 0 || e.SavedTokens.negative() || e.SavedCost < 0 {
		return errors.New("a count is negative")
	}
	return checkHead(e.ID, e.Time)
}

// decodeIntent reads a line of a journal.
func decodeIntent(line []byte, i *Intent) error {
	*i = Intent{}
	if err := json.Unmarshal(line, i); err != nil {
		return err
	}
	if i.Tokens.negative() || i.Cost < 0 {
		return errors.New("a count is negative")
	}
	return checkHead(i.ID, i.Time)
}

func checkHead(id string, t time.Time) error {
	if id == "" {
		return errors.New("there is no id")
	}
	if t.IsZero() {
		return errors.New("there is no time")
	}
	return nil
}
