package identity

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weir-dev/weir/adapters/canon"
)

// maxCredentialBytes bounds the work an unknown caller can cause; identity providers keep tokens
// below the 8 to 16 KiB that proxies allow for a header.
const maxCredentialBytes = 16 << 10

// The headers that can carry a credential: the generic one, Anthropic's, Azure OpenAI's and Google's.
const (
	hdrAuthorization = iota
	hdrXAPIKey
	hdrAPIKey
	hdrXGoogAPIKey
	hdrCount
)

// headerName spells a credential header as a sentence quotes it.
func headerName(i int) string {
	return [hdrCount]string{"authorization", "x-api-key", "api-key", "x-goog-api-key"}[i]
}

// Headers collects the credential headers of one request. The zero value is empty. Filling it
// allocates nothing.
type Headers struct {
	values [hdrCount]string
	counts [hdrCount]uint8
}

// Add notes a header if it is one that carries a credential, and reports whether it is: such a header
// must not be sent on to a provider. Call it for every header line of the request, repeated ones
// included.
func (h *Headers) Add(name, value string) bool {
	i := headerIndex(name)
	if i < 0 {
		return false
	}
	h.values[i] = value
	if h.counts[i] < 2 {
		h.counts[i]++
	}
	return true
}

// headerIndex finds a credential header by name in any case, or -1. The lengths differ, so one comparison settles it.
func headerIndex(name string) int {
	i := -1
	switch len(name) {
	case len("authorization"):
		i = hdrAuthorization
	case len("x-api-key"):
		i = hdrXAPIKey
	case len("api-key"):
		i = hdrAPIKey
	case len("x-goog-api-key"):
		i = hdrXGoogAPIKey
	}
	if i < 0 || !strings.EqualFold(name, headerName(i)) {
		return -1
	}
	return i
}

// credential finds the one credential of the request. Several headers may carry it (Anthropic's SDKs can
// send both authorization and x-api-key), but never different ones: which of two counts would be a guess,
// and another hop could guess differently.
func (h *Headers) credential() (string, *canon.Error) {
	found := ""
	for i := range hdrCount {
		switch h.counts[i] {
		case 0:
			continue
		case 1:
		default:
			return "", refuse(fmt.Sprintf("The header %s was sent more than once; send one credential.", headerName(i)))
		}
		cred := h.values[i]
		if i == hdrAuthorization {
			var err *canon.Error
			if cred, err = cutScheme(cred); err != nil {
				return "", err
			}
		}
		switch {
		case cred == "":
			return "", refuse(fmt.Sprintf("The header %s holds no credential.", headerName(i)))
		case len(cred) > maxCredentialBytes:
			return "", refuse(fmt.Sprintf("The credential in the header %s is longer than %d bytes.", headerName(i), maxCredentialBytes))
		case !graphicASCII(cred):
			return "", refuse(fmt.Sprintf("The credential in the header %s holds white space, control or non-ASCII characters.", headerName(i)))
		}
		if found != "" && found != cred {
			return "", refuse("The request carries more than one credential; send one.")
		}
		found = cred
	}
	if found == "" {
		return "", missingCredential()
	}
	return found, nil
}

// cutScheme takes the credential out of an authorization header: "Bearer" or "ApiKey" in any case, one or more
// spaces, the credential (RFC 9110 section 11.4).
func cutScheme(value string) (string, *canon.Error) {
	scheme, rest, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "bearer") && !strings.EqualFold(scheme, "apikey") {
		return "", unsupportedScheme()
	}
	return strings.TrimLeft(rest, " "), nil
}

// graphicASCII reports whether every byte is a visible ASCII character.
func graphicASCII(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// printable reports whether a name is safe to show, log and send on: valid UTF-8, no control or invisible
// formatting characters, no space at its ends.
func printable(s string) bool {
	if !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
