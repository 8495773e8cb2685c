package dashscope

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// ParseError implements canon.Outbound.
func (outbound) ParseError(status int, retryAfter string, body []byte) *canon.Error {
	var e *canon.Error
	if jsonx.Check(body) == nil {
		root := jsonx.Root(body)
		if f := root.Fields(); isError(&f) {
			e = readError(status, root)
		}
	}
	if e == nil {
		// A proxy's page or nothing at all: what it says is not for callers.
		e = &canon.Error{Kind: canon.KindOfAnswer(status),
			Message: fmt.Sprintf("the provider answered with status %d and a body that is no DashScope error", status)}
	}
	// The client keeps a status of its own where it says more than the kind does (422 is one).
	if status >= 400 && status < 500 && e.HTTPStatus() != status && canon.KindOf(status) == e.Kind && status != 408 {
		e.Status = status
	}
	e.RetryAfter = canon.ParseRetryAfter(retryAfter)
	return e
}

// isError reports {code, message}, with success's empty code let through, or the compatible mode's
// {"error": {...}}.
func isError(root *jsonx.Fields) bool {
	return codeOf(root.Get("code")) != "" || root.Get("error").Kind() == jsonx.Object
}

// codeOf reads a code, which some services behind the gateway write as a number.
func codeOf(v jsonx.Value) string {
	if n, ok := v.Int(); ok {
		if n == 0 || n == 200 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	if s := v.Str(); s != "Success" {
		return s
	}
	return ""
}

// readError reads an error. Status 0 means that there is none of its own.
func readError(status int, root jsonx.Value) *canon.Error {
	if inner := root.Get("error"); inner.Kind() == jsonx.Object {
		root = inner
	}
	e := &canon.Error{Code: codeOf(root.Get("code")), Message: root.Get("message").Str()}
	var known bool
	if e.Kind, known = codeKind(e.Code); !known {
		e.Kind = canon.KindOfAnswer(status)
	}
	switch {
	case e.Message == "" && e.Code == "":
		e.Message = "the provider gave no message"
	case e.Message == "":
		e.Message = "the provider answered " + e.Code + " without a message"
	case strings.Contains(e.Message, "url error"):
		e.Message += " (DashScope says this for a model that belongs to its other generation service, " +
			"text or multimodal: check the model's name in the backend)"
	}
	return e
}

// codeKind classes a code by its words, which come with many suffixes (Throttling.RateQuota) and
// prefixes (InternalError.Algo.InvalidParameter), and in snake case as well.
//
// Source: help.aliyun.com/zh/model-studio/error-code.
func codeKind(code string) (canon.ErrorKind, bool) {
	c := strings.ReplaceAll(strings.ToLower(code), "_", "")
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(c, w) {
				return true
			}
		}
		return false
	}
	switch {
	case c == "":
		return "", false
	case has("throttling", "limitrequests", "ratelimit", "insufficientquota"):
		return canon.ErrRateLimit, true
	case has("arrearage", "billoverdue", "notpurchased", "freetieronly"):
		return canon.ErrBilling, true
	case has("invalidapikey", "incorrectapikey", "unauthenticated"):
		return canon.ErrAuthentication, true
	case has("accessdenied", "unpurchased", "forbidden", "nopermission"):
		return canon.ErrPermission, true
	case has("model.notexist", "modelnotfound", "modelnotexist"):
		return canon.ErrModelNotFound, true
	case has("datainspection", "invalidparameter", "invalidrequest", "invalidurl", "badrequest", "unsupported"):
		return canon.ErrInvalidRequest, true
	case has("timeout"):
		return canon.ErrTimeout, true
	case has("unavailable", "modelservicefailed", "modelservingerror", "overload"):
		return canon.ErrOverloaded, true
	case has("notfound"):
		return canon.ErrNotFound, true
	case has("internalerror", "systemerror"):
		return canon.ErrInternal, true
	}
	return "", false
}
