package promtext

import "bytes"

// Label is the value of the sample's label of that name. It is valid until the next call of Label or Next. It is false when the
// sample has no such label, and when the labels are malformed: then the page ends here and Err says so.
func (s *Scanner) Label(name string) ([]byte, bool) {
	if s.err != nil || !s.in {
		return nil, false
	}
	rest := s.rest
	for {
		label, raw, after, end, ok := pair(rest)
		if !ok {
			s.fail("the labels are malformed")
			return nil, false
		}
		if end {
			return nil, false
		}
		if string(label) == name {
			v, _, ok := quoted(raw, &s.value)
			if !ok {
				s.fail("the labels are malformed")
			}
			return v, ok
		}
		rest = after
	}
}

// behindLabels is what follows the closing brace.
func (s *Scanner) behindLabels() ([]byte, bool) {
	if !s.in {
		return s.rest, true
	}
	// A brace may stand within a value and within an exemplar, so only a walk over the labels finds the one that closes.
	rest := s.rest
	for {
		_, _, after, end, ok := pair(rest)
		if !ok {
			s.fail("the labels are malformed")
			return nil, false
		}
		if end {
			return after, true
		}
		rest = after
	}
}

// pair splits name="value" off the labels. raw begins with the quote of the value. end says that the brace was there instead, and
// after is what follows it.
func pair(b []byte) (name, raw, after []byte, end, ok bool) {
	b = skip(b)
	if len(b) == 0 {
		return nil, nil, nil, false, false
	}
	switch {
	case b[0] == '}':
		return nil, nil, b[1:], true, true
	case b[0] == '"':
		n := closing(b)
		if n < 0 {
			return nil, nil, nil, false, false
		}
		name, b = b[1:n], b[n+1:] // with its escapes: nobody asks for a label whose name needs some
	default:
		n := 0
		for n < len(b) && nameByte(b[n], n) {
			n++
		}
		if n == 0 {
			return nil, nil, nil, false, false
		}
		name, b = b[:n], b[n:]
	}
	if b = skip(b); len(b) == 0 || b[0] != '=' {
		return nil, nil, nil, false, false
	}
	raw = skip(b[1:])
	n := closing(raw)
	if n < 0 {
		return nil, nil, nil, false, false
	}
	after = skip(raw[n+1:])
	switch {
	case len(after) == 0 || after[0] != ',' && after[0] != '}':
		return nil, nil, nil, false, false
	case after[0] == ',':
		after = after[1:]
	}
	return name, raw, after, false, true
}

// closing is where the quote that begins b is closed, or -1.
func closing(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return -1
	}
	for i := 1; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' { // ends at the quote that begins b
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
		i++
	}
}

// quoted is the text in the quotes that begin b, and what follows them. Text with escapes is put into hold.
func quoted(b []byte, hold *[]byte) (text, rest []byte, ok bool) {
	n := closing(b)
	if n < 0 {
		return nil, nil, false
	}
	text, rest = b[1:n], b[n+1:]
	if bytes.IndexByte(text, '\\') < 0 {
		return text, rest, true
	}
	out := (*hold)[:0]
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '\\' && i+1 < len(text) {
			i++
			switch c = text[i]; c {
			case 'n':
				c = '\n'
			case '\\', '"':
			default: // not an escape: both stand for themselves, as Prometheus reads it
				out = append(out, '\\')
			}
		}
		out = append(out, c)
	}
	*hold = out
	return out, rest, true
}
