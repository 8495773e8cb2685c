package wire

import "strings"

// Load is what the headers of one answer say about the load of the endpoint that gave it.
type Load struct {
	Backend  string // ID
	Endpoint string // "ip:port", "[v6]:port", as Envoy prints it
	Status   string // of the answer, three digits

	headers string
}

// ParseLoad reads an entry of LoadNamespace. ok is false for what load.lua does not write.
//
// The key is the backend's ID, a space, and the address. The text is the status, and for each header that is there a line
// of its name in lower case, ": ", and its value, in printable ASCII: "429\nretry-after: 7".
func ParseLoad(key, text string) (l Load, ok bool) {
	if l.Backend, l.Endpoint, ok = strings.Cut(key, " "); !ok || l.Backend == "" || l.Endpoint == "" {
		return Load{}, false
	}
	l.Status, l.headers, _ = strings.Cut(text, "\n")
	if len(l.Status) != 3 {
		return Load{}, false
	}
	return l, true
}

// Header returns a header by its name in lower case; "" where it is not there.
func (l *Load) Header(name string) string {
	for rest := l.headers; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if have, value, ok := strings.Cut(line, ": "); ok && have == name {
			return value
		}
	}
	return ""
}
