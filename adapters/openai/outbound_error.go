package openai

import (
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// maxMessage bounds what is kept of a provider's message, in bytes.
const maxMessage = 4096

// refusedCredential stands for whatever a provider says there: the credential is the gateway's, and
// providers quote a part of it.
const refusedCredential = "the provider refused the gateway's credential"

// ParseError reads an answer that is no success.
func (outbound) ParseError(status int, retryAfter string, body []byte) *canon.Error {
	e := &canon.Error{Kind: canon.KindOf(status), RetryAfter: canon.ParseRetryAfter(retryAfter)}
	if status < 400 { // a redirect, or a status that no API has
		e.Kind = canon.ErrBadGateway
	}
	if jsonx.Check(body) == nil {
		describe(e, jsonx.Root(body))
	}
	if status >= 400 && status < 500 && e.HTTPStatus() != status && e.Kind == canon.ErrInvalidRequest {
		e.Status = status // 422 and the like keep their own
	}
	if e.Message == "" {
		e.Message = "the provider answered with status " + strconv.Itoa(status) + " and no readable error"
	}
	if status == 401 {
		e.Message = refusedCredential
	}
	return e
}

// errorIn finds an error in an answer or a stream frame under a good status; nil where there is none.
func errorIn(root jsonx.Value) *canon.Error {
	if root.Get("error").Missing() && root.Get("object").Str() != "error" {
		return nil
	}
	return errorOf(root)
}

// errorOf reads an error that has no HTTP status of its own; some servers put one in its code.
func errorOf(root jsonx.Value) *canon.Error {
	inner := root.Get("error")
	if inner.Kind() != jsonx.Object {
		inner = root
	}
	e := &canon.Error{Kind: canon.ErrInternal}
	if inner.Get("type").Str() == "invalid_request_error" {
		e.Kind = canon.ErrInvalidRequest
	}
	for _, field := range [...]string{"code", "status_code", "status"} {
		if status, ok := inner.Get(field).Int(); ok && status >= 400 && status <= 599 {
			e.Kind = canon.KindOf(int(status))
			break
		}
	}
	describe(e, root)
	if e.Kind == canon.ErrAuthentication {
		e.Message = refusedCredential
	}
	if e.Message == "" {
		e.Message = "the provider reported an error without saying which"
	}
	return e
}

// describe fills e from a body: {"error":{...}}, {"error":"..."}, the flat {"object":"error",...} of
// older vLLM, or FastAPI's {"detail":...}.
func describe(e *canon.Error, root jsonx.Value) {
	inner := root.Get("error")
	switch inner.Kind() {
	case jsonx.Object:
	case jsonx.String:
		e.Message = cut(inner.Str())
		return
	default:
		inner = root
	}
	message := inner.Get("message")
	if message.Kind() != jsonx.String {
		message = inner.Get("detail")
	}
	switch message.Kind() {
	case jsonx.String:
		e.Message = cut(message.Str())
	case jsonx.Array, jsonx.Object:
		e.Message = cut(string(message))
	}
	e.Param = cut(inner.Get("param").Str())
	e.Code = cut(inner.Get("code").Str()) // an integer repeats the status
	kind := inner.Get("type").Str()
	for _, word := range [...]string{e.Code, kind} {
		if k, ok := kindOfWord(word); ok {
			e.Kind = k
			return
		}
	}
	if e.Kind == canon.ErrNotFound && e.Param == "model" { // vLLM
		e.Kind = canon.ErrModelNotFound
	}
}

// kindOfWord knows the codes and types that say more than the status, or stand in for it.
func kindOfWord(word string) (canon.ErrorKind, bool) {
	switch word {
	case "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "Arrearage":
		return canon.ErrBilling, true
	case "model_not_found", "DeploymentNotFound":
		return canon.ErrModelNotFound, true
	case "invalid_api_key", "authentication_error":
		return canon.ErrAuthentication, true
	case "permission_error", "permission_denied":
		return canon.ErrPermission, true
	case "rate_limit_exceeded", "rate_limit_error", "limit_requests":
		return canon.ErrRateLimit, true
	case "request_too_large":
		return canon.ErrTooLarge, true
	case "bad_gateway": // as another Weir says it
		return canon.ErrBadGateway, true
	case "overloaded", "overloaded_error", "engine_overloaded", "server_overloaded":
		return canon.ErrOverloaded, true
	case "timeout":
		return canon.ErrTimeout, true
	}
	return "", false
}

func cut(s string) string {
	if len(s) > maxMessage {
		return s[:maxMessage] + "..."
	}
	return s
}
