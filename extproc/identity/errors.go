package identity

import (
	"fmt"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// The codes of the errors this package makes (canon.Error.Code).
const (
	CodeMissing           = "missing_credential" // 401: none was sent
	CodeUnsupportedScheme = "unsupported_scheme" // 401: an authorization scheme other than Bearer and ApiKey
	CodeInvalidCredential = "invalid_credential" // 401: the headers do not carry one well-formed credential
	CodeInvalidKey        = "invalid_api_key"    // 401: unknown, disabled or expired key
	CodeInvalidToken      = "invalid_token"      // 401: a token that fails a check
	CodeInsufficientScope = "insufficient_scope" // 403: Param lists the scopes that are needed
	CodeKeysUnavailable   = "keys_unavailable"   // 503: the issuer's keys are not there
)

const accepted = `Send an API key or a token as "Authorization: Bearer <key or token>", "Authorization: ApiKey <key>", ` +
	`"x-api-key", "api-key" or "x-goog-api-key".`

func unauthenticated(code, message string) *canon.Error {
	return &canon.Error{Kind: canon.ErrAuthentication, Code: code, Message: message}
}

func missingCredential() *canon.Error {
	return unauthenticated(CodeMissing, "The request carries no credential. "+accepted)
}

func unsupportedScheme() *canon.Error {
	return unauthenticated(CodeUnsupportedScheme, "The authorization header has a scheme that is not accepted. "+accepted)
}

func refuse(message string) *canon.Error { return unauthenticated(CodeInvalidCredential, message) }

// unknownKey is the answer to unknown and to disabled keys alike: whether a guess hit a key is nobody's business.
func unknownKey() *canon.Error {
	return unauthenticated(CodeInvalidKey, "The API key is not valid.")
}

func expiredKey() *canon.Error {
	return unauthenticated(CodeInvalidKey, "The API key has expired; ask for a new one.")
}

func badToken(why string) *canon.Error {
	return unauthenticated(CodeInvalidToken, "The token is refused: "+why+".")
}

func keysUnavailable(issuer string, retry time.Duration) *canon.Error {
	return &canon.Error{
		Kind: canon.ErrOverloaded, Code: CodeKeysUnavailable, RetryAfter: retry,
		Message: fmt.Sprintf("The keys of issuer %q cannot be fetched, so its tokens cannot be checked now; try again later.", issuer),
	}
}

// InsufficientScope is the 403 for an identity that lacks one of the required scopes.
func InsufficientScope(missing string, required []string) *canon.Error {
	return &canon.Error{
		Kind: canon.ErrPermission, Code: CodeInsufficientScope, Param: strings.Join(required, " "),
		Message: fmt.Sprintf("The credential lacks the scope %q, which this request needs.", missing),
	}
}

// Challenge gives the www-authenticate header that belongs to an error of this package (RFC 6750 section 3), or
// "" where the status has none. A request without a usable credential gets no error attribute, as the RFC asks.
func Challenge(err *canon.Error) string {
	const realm = `Bearer realm="weir"`
	switch {
	case err == nil:
		return ""
	case err.Kind == canon.ErrAuthentication:
		if err.Code == CodeMissing || err.Code == CodeUnsupportedScheme {
			return realm
		}
		return realm + `, error="invalid_token", error_description="` + quotable(err.Message) + `"`
	case err.Kind == canon.ErrPermission && err.Code == CodeInsufficientScope:
		return realm + `, error="insufficient_scope", error_description="` + quotable(err.Message) +
			`", scope="` + quotable(err.Param) + `"`
	}
	return ""
}

// quotable keeps to the characters RFC 6750 allows in an attribute: printable ASCII without quote and backslash.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
}
