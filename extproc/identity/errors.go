package identity

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// The codes of the errors this package makes (canon.Error.Code).
const (
	CodeMissing           = "missing_credential"     // 401: none was sent
	CodeUnsupportedScheme = "unsupported_scheme"     // 401: an authorization scheme other than Bearer and ApiKey
	CodeInvalidCredential = "invalid_credential"     // 401: the headers do not carry one well-formed credential
	CodeInvalidKey        = "invalid_api_key"        // 401: unknown, disabled or expired key
	CodeInvalidToken      = "invalid_token"          // 401: a token that fails a check
	CodeInsufficientScope = "insufficient_scope"     // 403: Param lists the scopes that are needed
	CodeAddress           = "address_not_allowed"    // 403: the key is bound to other addresses
	CodeThrottled         = "too_many_failed_logins" // 429: from this address, lately
	CodeKeysUnavailable   = "keys_unavailable"       // 503: the issuer's keys, or the stored API keys, are not there
)

// Reason says for metrics why a request was not let in. There are the few below; a caller cannot add to them.
type Reason string

// The reasons. Those that are codes as well say what the codes say.
const (
	ReasonMissing           Reason = CodeMissing
	ReasonUnsupportedScheme Reason = CodeUnsupportedScheme
	ReasonInvalidCredential Reason = CodeInvalidCredential
	ReasonUnknownKey        Reason = "unknown_key"
	ReasonDisabledKey       Reason = "disabled_key"
	ReasonExpiredKey        Reason = "expired_key"
	ReasonOrphanedKey       Reason = "orphaned_key" // stored, but the configuration has no place for it
	ReasonAddress           Reason = CodeAddress
	ReasonInvalidToken      Reason = CodeInvalidToken
	ReasonInsufficientScope Reason = CodeInsufficientScope
	ReasonThrottled         Reason = CodeThrottled
	ReasonKeysUnavailable   Reason = CodeKeysUnavailable
)

// Reasons lists every Reason, so that metrics can show those that have not happened.
func Reasons() []Reason {
	return []Reason{
		ReasonMissing, ReasonUnsupportedScheme, ReasonInvalidCredential, ReasonUnknownKey, ReasonDisabledKey, ReasonExpiredKey,
		ReasonOrphanedKey, ReasonAddress, ReasonInvalidToken, ReasonInsufficientScope, ReasonThrottled, ReasonKeysUnavailable,
	}
}

// failedLogin says whether a refusal counts against the caller's address: a credential was tried and was no good. One
// that is missing or malformed costs nothing and guesses nothing.
func (r Reason) failedLogin() bool {
	switch r {
	case ReasonUnknownKey, ReasonDisabledKey, ReasonExpiredKey, ReasonOrphanedKey, ReasonAddress, ReasonInvalidToken:
		return true
	}
	return false
}

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

// keyRefusal is the answer for a key. It names the address, which the caller may see otherwise behind proxies.
func keyRefusal(why Reason, source netip.Addr) *canon.Error {
	switch why {
	case ReasonExpiredKey:
		return expiredKey()
	case ReasonAddress:
		e := &canon.Error{Kind: canon.ErrPermission, Code: CodeAddress}
		if source.IsValid() {
			e.Message = fmt.Sprintf("The API key may not be used from the address %s; use it from one of the networks it was made for.", source.Unmap())
		} else {
			e.Message = "The API key may be used from certain networks only, and the address of this request is not known."
		}
		return e
	}
	return unknownKey()
}

func tooManyFailures(wait time.Duration) *canon.Error {
	return &canon.Error{
		Kind: canon.ErrRateLimit, Code: CodeThrottled, RetryAfter: wait,
		Message: "Too many logins from this address have failed; wait, and check the credential before trying again.",
	}
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

// storeUnread is the answer to an unknown key as long as the stored keys have never been read.
func storeUnread() *canon.Error {
	return &canon.Error{
		Kind: canon.ErrOverloaded, Code: CodeKeysUnavailable, RetryAfter: minRetryAfter,
		Message: "The store of API keys has not been reached since the start, so the key cannot be checked now; try again later.",
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
