package canon

import "time"

// ErrorKind classes an error the way every dialect can express it.
type ErrorKind string

// The kinds, with the HTTP status each has unless Error.Status says otherwise.
const (
	ErrInvalidRequest ErrorKind = "invalid_request" // 400
	ErrAuthentication ErrorKind = "authentication"  // 401
	ErrBilling        ErrorKind = "billing"         // 402
	ErrPermission     ErrorKind = "permission"      // 403
	ErrNotFound       ErrorKind = "not_found"       // 404
	ErrModelNotFound  ErrorKind = "model_not_found" // 404
	ErrMethod         ErrorKind = "method"          // 405
	ErrConflict       ErrorKind = "conflict"        // 409
	ErrTooLarge       ErrorKind = "too_large"       // 413
	ErrUpgrade        ErrorKind = "upgrade"         // 426
	ErrRateLimit      ErrorKind = "rate_limit"      // 429
	ErrInternal       ErrorKind = "internal"        // 500
	ErrBadGateway     ErrorKind = "bad_gateway"     // 502: the provider's answer made no sense
	ErrOverloaded     ErrorKind = "overloaded"      // 503
	ErrTimeout        ErrorKind = "timeout"         // 504
)

var kindStatus = map[ErrorKind]int{
	ErrInvalidRequest: 400, ErrAuthentication: 401, ErrBilling: 402, ErrPermission: 403,
	ErrNotFound: 404, ErrModelNotFound: 404, ErrMethod: 405, ErrConflict: 409, ErrTooLarge: 413,
	ErrUpgrade: 426, ErrRateLimit: 429, ErrInternal: 500, ErrBadGateway: 502, ErrOverloaded: 503,
	ErrTimeout: 504,
}

// CodeNotTranslatable is the Code of a ParseRequest error about a request that is sound in its own
// dialect, and that a backend of that dialect may well serve, but that canon cannot carry.
const CodeNotTranslatable = "not_translatable"

// BackendCredential is what callers are told of an authentication error of a backend: it means the gateway's key, and may quote a part of it.
const BackendCredential = "The backend refused the gateway's own credential; this is not about yours."

// Error is a failure a caller is told about: by a provider, or by Weir itself. It never holds a
// credential, and holds prompt text only where the provider quoted it.
type Error struct {
	Status     int // HTTP status for the caller; 0 means the kind's own
	Kind       ErrorKind
	Message    string        // a sentence for the person who reads it
	Param      string        // the field at fault, "messages[2].content"; "" where none
	Code       string        // the provider's own code, "" where none
	RetryAfter time.Duration // 0 where unknown
	Policy     string        // name of the limit, budget or circuit breaker that says no, for records; "" where none does
}

// Error makes *Error a Go error.
func (e *Error) Error() string { return e.Message }

// HTTPStatus is the status the caller sees.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	if s, ok := kindStatus[e.Kind]; ok {
		return s
	}
	return 500
}

// KindOf gives the kind that fits an HTTP status of a provider that said no more than that.
func KindOf(status int) ErrorKind {
	switch status {
	case 401:
		return ErrAuthentication
	case 402:
		return ErrBilling
	case 403:
		return ErrPermission
	case 404:
		return ErrNotFound
	case 405:
		return ErrMethod
	case 408, 504:
		return ErrTimeout
	case 409:
		return ErrConflict
	case 413:
		return ErrTooLarge
	case 426:
		return ErrUpgrade
	case 429:
		return ErrRateLimit
	case 502:
		return ErrBadGateway
	case 503, 529:
		return ErrOverloaded
	}
	if status >= 400 && status < 500 {
		return ErrInvalidRequest
	}
	return ErrInternal
}

// KindOfAnswer is KindOf, for answers that a provider should never give as well: redirects and 5xx
// without an error of its own come from something in between. Status 0 means that there is none, as
// in a stream.
func KindOfAnswer(status int) ErrorKind {
	if status == 0 || status == 500 {
		return ErrInternal
	}
	if kind := KindOf(status); kind != ErrInternal {
		return kind
	}
	return ErrBadGateway
}
