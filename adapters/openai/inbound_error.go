package openai

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// AppendError appends an error object. OpenAI tells the request id in a header, never in the body.
func (inbound) AppendError(dst []byte, e *canon.Error, _ string) []byte {
	return appendError(dst, e)
}

// appendError appends {"error":{...}}, with the four members that every SDK expects.
func appendError(dst []byte, e *canon.Error) []byte {
	kind, code := errorWords(e)
	dst = append(dst, `{"error":{"message":`...)
	dst = jsonx.AppendString(dst, e.Message)
	dst = append(dst, `,"type":`...)
	dst = jsonx.AppendString(dst, kind)
	dst = append(dst, `,"param":`...)
	dst = appendOrNull(dst, e.Param)
	dst = append(dst, `,"code":`...)
	dst = appendOrNull(dst, code)
	return append(dst, "}}"...)
}

func appendOrNull(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return jsonx.AppendString(dst, s)
}

// errorWords gives the type and the code. Where OpenAI has one code for a kind, and clients act on
// it, it replaces the provider's; elsewhere the provider's own passes.
func errorWords(e *canon.Error) (kind, code string) {
	kind, code = "invalid_request_error", e.Code
	switch e.Kind {
	case canon.ErrAuthentication:
		return "authentication_error", "invalid_api_key"
	case canon.ErrBilling:
		return "insufficient_quota", "insufficient_quota"
	case canon.ErrPermission:
		kind = "permission_error"
	case canon.ErrModelNotFound:
		return kind, "model_not_found"
	case canon.ErrMethod:
		return kind, "method_not_allowed"
	case canon.ErrConflict:
		kind = "conflict_error"
	case canon.ErrTooLarge:
		return "request_too_large", "request_too_large"
	case canon.ErrRateLimit:
		return "rate_limit_error", "rate_limit_exceeded"
	case canon.ErrInternal, canon.ErrBadGateway, canon.ErrOverloaded:
		kind = "server_error"
		if code == "" {
			code = string(e.Kind)
		}
	case canon.ErrTimeout:
		return "timeout", "timeout"
	}
	return kind, code
}
