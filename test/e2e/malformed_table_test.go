package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// text is a case whose body is made from the lane's sound one.
func text(name string, status int, body func(lane) string) malformed {
	return malformed{name: name, status: status, each: true, edit: func(l lane, m *message) { m.body = body(l) }}
}

// fixed is a case whose body is the same everywhere.
func fixed(name string, status int, body string) malformed {
	return text(name, status, func(lane) string { return body })
}

// field is a case in which one top-level member has another value.
func field(name, member, raw string, status int) malformed {
	return text(name, status, func(l lane) string { return l.fields().set(member, raw).String() })
}

// line is a case in which the request differs otherwise.
func line(name string, status int, edit func(*message)) malformed {
	return malformed{name: name, status: status, edit: func(_ lane, m *message) { edit(m) }}
}

func early(c malformed) malformed                { c.early = true; return c }
func only(dialect string, c malformed) malformed { c.only = dialect; return c }
func each(c malformed) malformed                 { c.each = true; return c }

// nested are n arrays or objects in each other.
func nested(open, inside, end string, n int) string {
	return strings.Repeat(open, n) + inside + strings.Repeat(end, n)
}

// brokenBodies are no JSON objects. Providers answer 400 to all of them.
func brokenBodies() []malformed {
	sound := func(l lane) string { return l.fields().String() }
	inContent := func(raw string) func(lane) string {
		return func(l lane) string { return strings.Replace(sound(l), `"hi"`, raw, 1) }
	}
	return []malformed{
		text("object not closed", 400, func(l lane) string { return strings.TrimSuffix(sound(l), "}") }),
		text("array not closed", 400, func(l lane) string { return strings.Replace(sound(l), "]", "", 1) }),
		text("string not closed", 400, func(l lane) string { return sound(l)[:12] }),
		text("single quotes", 400, func(l lane) string { return strings.ReplaceAll(sound(l), `"`, "'") }),
		text("trailing comma", 400, func(l lane) string { return strings.TrimSuffix(sound(l), "}") + ",}" }),
		text("comment", 400, func(l lane) string { return "/* ask */" + sound(l) }),
		text("two objects", 400, func(l lane) string { return sound(l) + sound(l) }),
		text("text after the object", 400, func(l lane) string { return sound(l) + "x" }),
		text("brackets of the wrong kind", 400, func(l lane) string { return strings.Replace(sound(l), "]", "}", 1) }),
		text("unquoted name", 400, func(l lane) string { return strings.Replace(sound(l), `"model"`, "model", 1) }),
		text("NaN", 400, func(l lane) string { return l.fields().set("temperature", "NaN").String() }),
		text("leading zero", 400, func(l lane) string { return l.fields().set("max_tokens", "08").String() }),
		text("word that is no literal", 400, func(l lane) string { return l.fields().set("stream", "falsey").String() }),
		text("line break in a string", 400, inContent("\"a\nb\"")),
		text("unknown escape", 400, inContent(`"\x41"`)),
		text("incomplete unicode escape", 400, inContent(`"\u12"`)),
		text("invalid UTF-8 in the text", 400, inContent("\"\xff\xfe\"")),
		text("overlong UTF-8", 400, inContent("\"\xc0\xaf\"")),
		fixed("invalid UTF-8 in the model", 400, "{\"model\":\"\xff\",\"max_tokens\":8,\"messages\":[]}"),
		text("invalid UTF-8 in stream", 400, func(l lane) string { return l.fields().set("stream", "\"\xe9\"").String() }),
		text("byte order mark", 400, func(l lane) string { return "\xef\xbb\xbf" + sound(l) }),
		text("UTF-16", 400, func(l lane) string {
			var b strings.Builder
			for _, u := range utf16.Encode([]rune(sound(l))) {
				b.Write([]byte{byte(u >> 8), byte(u)})
			}
			return b.String()
		}),
		text("NUL byte between tokens", 400, func(l lane) string { return strings.Replace(sound(l), ":[", ":\x00[", 1) }),
		fixed("array", 400, "[]"), fixed("string", 400, `"gpt-4o"`), fixed("number", 400, "1"), fixed("null", 400, "null"),
		fixed("white space", 400, " \r\n\t "), fixed("XML", 400, "<model>gpt-4o</model>"), fixed("form", 400, "model=gpt-4o&max_tokens=8"),
		fixed("empty object", 400, "{}"), fixed("empty body", 400, ""), fixed("one brace", 400, "{"),
		line("no body and no length", 400, func(m *message) { m.body, m.length = "", "-" }),
		text("10,000 arrays deep", 400, func(l lane) string { return l.fields().set("metadata", nested("[", "", "]", 10_000)).String() }),
		text("10,000 objects deep in the content", 400, inContent(nested(`{"a":`, "1", "}", 10_000))),
		text("10,000 arrays that do not end", 400, func(l lane) string { return l.fields().set("metadata", nested("[", "", "", 10_000)).String() }),
		{name: "half of the body, then closed", edit: func(l lane, m *message) {
			m.length, m.halfClose = fmt.Sprint(2*len(m.body)), true
		}, each: true},
		{name: "a chunk short, then closed", edit: func(l lane, m *message) {
			m.raw = fmt.Sprintf("POST %s HTTP/1.1\r\nhost: x\r\n%s\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n", m.target, m.credential[0], len(m.body), m.body)
			m.halfClose = true
		}, each: true},
	}
}

// wrongFields are JSON objects with members of the wrong type, value or number.
func wrongFields() []malformed {
	cases := []malformed{
		text("no model", 400, func(l lane) string { return l.fields().without("model").String() }),
		field("model null", "model", "null", 400), field("model number", "model", "4", 400), field("model array", "model", `["gpt-4o"]`, 400),
		field("model object", "model", `{"name":"gpt-4o"}`, 400), field("model boolean", "model", "true", 400), field("model empty", "model", `""`, 400),
		field("model of 300 bytes", "model", `"`+strings.Repeat("m", 300)+`"`, 400),
		field("model of 5,000 bytes", "model", `"`+strings.Repeat("m", 5000)+`"`, 400),
		field("model with NUL", "model", `"gpt-4o\u0000"`, 400), field("model with a line break", "model", `"gpt-4o\r\nx-weir-rule: x"`, 400),
		field("model with a raw control character", "model", "\"gpt\x01\"", 400),
		text("model twice", 400, func(l lane) string { return strings.TrimSuffix(l.fields().String(), "}") + `,"model":"gpt-4o"}` }),
		text("model with an escaped name", 400, func(l lane) string { return strings.Replace(l.fields().String(), `"model"`, `"mod\u0065l"`, 1) }),
		text("model and another with an escaped name", 400, func(l lane) string { return l.fields().set(`mod\u0065l`, `"x"`).String() }),
		text("Model", 400, func(l lane) string { return strings.Replace(l.fields().String(), `"model"`, `"Model"`, 1) }),
		text("model and MODEL", 400, func(l lane) string { return l.fields().set("MODEL", `"x"`).String() }),
		field("unknown model", "model", `"no-such-model"`, 404), field("unknown model in Chinese", "model", `"没有这个模型"`, 404),
		field("stream text", "stream", `"true"`, 400), field("stream number", "stream", "1", 400), field("stream object", "stream", "{}", 400),
		text("stream twice", 400, func(l lane) string {
			return strings.TrimSuffix(l.fields().String(), "}") + `,"stream":false,"stream":true}`
		}),
		text("Stream", 400, func(l lane) string { return l.fields().set("Stream", "true").String() }),

		text("no messages", 400, func(l lane) string { return l.fields().without("messages").String() }),
		field("messages null", "messages", "null", 400), field("messages text", "messages", `"hi"`, 400), field("messages object", "messages", "{}", 400),
		field("messages empty", "messages", "[]", 400), field("message number", "messages", "[1]", 400), field("message null", "messages", "[null]", 400),
		field("message without role", "messages", `[{"content":"hi"}]`, 400), field("role number", "messages", `[{"role":1,"content":"hi"}]`, 400),
		field("unknown role", "messages", `[{"role":"nobody","content":"hi"}]`, 400),
		field("content number", "messages", `[{"role":"user","content":5}]`, 400), field("content object", "messages", `[{"role":"user","content":{}}]`, 400),
		field("unknown content part", "messages", `[{"role":"user","content":[{"type":"hologram"}]}]`, 400),
		field("content part without text", "messages", `[{"role":"user","content":[{"type":"text"}]}]`, 400),
		field("content part number", "messages", `[{"role":"user","content":[7]}]`, 400),
		field("temperature text", "temperature", `"hot"`, 400), field("temperature 9", "temperature", "9", 400),
		field("top_p array", "top_p", "[1]", 400), field("max_tokens text", "max_tokens", `"8"`, 400), field("max_tokens negative", "max_tokens", "-1", 400),
		field("max_tokens fraction", "max_tokens", "1.5", 400), field("max_tokens 1e999", "max_tokens", "1e999", 400),
		field("tools object", "tools", "{}", 400), field("tools number", "tools", "[1]", 400), field("tool_choice number", "tool_choice", "5", 400),
		only("openai", field("tool without function", "tools", `[{"type":"function"}]`, 400)),
		only("openai", field("stop number", "stop", "5", 400)),
		only("openai", field("response_format text", "response_format", `"json"`, 400)),
		only("openai", text("stream_options array", 400, func(l lane) string { return l.fields().set("stream", "true").set("stream_options", "[]").String() })),
		only("openai", field("answer of a tool that was not called", "messages", `[{"role":"tool","tool_call_id":"x","content":"y"}]`, 400)),
		only("openai", field("image_url number", "messages", `[{"role":"user","content":[{"type":"image_url","image_url":5}]}]`, 400)),
		only("anthropic", text("no max_tokens", 400, func(l lane) string { return l.fields().without("max_tokens").String() })),
		only("anthropic", field("system number", "system", "5", 400)),
		only("anthropic", field("stop_sequences text", "stop_sequences", `"x"`, 400)),
		only("anthropic", field("tool without a schema", "tools", `[{"name":"f"}]`, 400)),
		only("anthropic", field("tool_choice text", "tool_choice", `"auto"`, 400)),
		only("anthropic", field("result of a tool that was not called", "messages", `[{"role":"user","content":[{"type":"tool_result","tool_use_id":"x","content":"y"}]}]`, 400)),
		only("anthropic", field("image that is no base64", "messages",
			`[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"!!"}}]}]`, 400)),
	}
	return cases
}

// token signs claims; edit changes them.
func token(edit func(jwt.MapClaims)) string {
	claims := jwt.MapClaims{"iss": "https://idp.test", "aud": "weir", "sub": "app", "exp": time.Now().Add(time.Hour).Unix()}
	edit(claims)
	return signed(jwt.SigningMethodHS256, claims, []byte(tokenSecret))
}

func signed(method jwt.SigningMethod, claims jwt.MapClaims, key any) string {
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		panic(fmt.Sprintf("a token cannot be signed: %v", err))
	}
	return s
}

// key is a case with another credential, sent as the SDK of the dialect does.
func key(name string, status int, credential string) malformed {
	return malformed{name: name, status: status, edit: func(l lane, m *message) { m.credential = l.credential(credential) }}
}

// headers is a case with these credential headers.
func headers(name string, status int, lines ...string) malformed {
	return line(name, status, func(m *message) { m.credential = lines })
}

// wrongCredentials get 401 (RFC 9110 section 15.5.2), and 403 where who calls is known.
func wrongCredentials() []malformed {
	claims := jwt.MapClaims{"iss": "https://idp.test", "aud": "weir", "sub": "app", "exp": time.Now().Add(time.Hour).Unix()}
	none := signed(jwt.SigningMethodNone, claims, jwt.UnsafeAllowNoneSignatureType)
	parts := strings.Split(token(func(jwt.MapClaims) {}), ".")
	garbage := base64.RawURLEncoding.EncodeToString([]byte("{not json"))
	scoped := line("scope missing", 403, func(m *message) { m.header("x-scoped: yes") })
	scoped.answer = []string{"www-authenticate"}
	return []malformed{
		headers("no credential", 401), key("unknown key", 401, unknownKey), key("expired key", 401, expiredKey), key("disabled key", 401, disabledKey),
		key("key of one character", 401, "k"), key("key in another case", 401, strings.ToUpper(harness.DefaultKey)),
		key("key of 20,000 characters", 401, strings.Repeat("k", 20_000)), key("key with a tab", 401, "test-key\t0123456789"),
		key("key with bytes above 127", 401, "test-key-\xe9\xff-0123456789"), key("key with a space behind", 401, harness.DefaultKey+" x"),
		headers("two different keys", 401, "authorization: Bearer "+harness.DefaultKey, "x-api-key: "+unknownKey),
		headers("two different keys, the wrong one first", 401, "x-api-key: "+unknownKey, "api-key: "+harness.DefaultKey),
		headers("authorization twice", 401, "authorization: Bearer "+harness.DefaultKey, "authorization: Bearer "+harness.DefaultKey),
		headers("x-api-key twice", 401, "x-api-key: "+harness.DefaultKey, "x-api-key: "+unknownKey),
		headers("Basic", 401, "authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("app:"+harness.DefaultKey))),
		headers("scheme without a key", 401, "authorization: Bearer"), headers("key without a scheme", 401, "authorization: "+harness.DefaultKey),
		headers("empty authorization", 401, "authorization: "), headers("empty x-api-key", 401, "x-api-key: "),
		key("alg none", 401, none), key("alg none, signature kept", 401, strings.TrimSuffix(none, ".")+"."+parts[2]),
		key("another algorithm", 401, signed(jwt.SigningMethodHS384, claims, []byte(tokenSecret))),
		key("another secret", 401, signed(jwt.SigningMethodHS256, claims, []byte(strings.Repeat("x", 40)))),
		key("wrong audience", 401, token(func(c jwt.MapClaims) { c["aud"] = "somebody-else" })),
		key("no audience", 401, token(func(c jwt.MapClaims) { delete(c, "aud") })),
		key("expired token", 401, token(func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Hour).Unix() })),
		key("token that never ends", 401, token(func(c jwt.MapClaims) { delete(c, "exp") })),
		key("token of tomorrow", 401, token(func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(24 * time.Hour).Unix() })),
		key("wrong issuer", 401, token(func(c jwt.MapClaims) { c["iss"] = "https://evil.test" })),
		key("exp text", 401, token(func(c jwt.MapClaims) { c["exp"] = "tomorrow" })),
		key("token with a changed payload", 401, parts[0]+"."+base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"admin"}`))+"."+parts[2]),
		key("token with a payload that is no JSON", 401, parts[0]+"."+garbage+"."+parts[2]),
		key("token with a header that is no JSON", 401, garbage+"."+parts[1]+"."+parts[2]),
		key("token without a signature", 401, parts[0]+"."+parts[1]+"."),
		each(key("model not allowed", 403, narrowKey)), scoped,
		line("no credential and a broken body", 401, func(m *message) { m.credential, m.body = nil, "{" }),
		line("no credential and an unknown path", 401, func(m *message) { m.credential, m.target = nil, "/v1/secret" }),
	}
}

// wrongTransport breaks HTTP itself, or asks for what is not served. Sections are of RFC 9112 unless another is named.
func wrongTransport() []malformed {
	large := func(l lane) string {
		return l.fields().set("metadata", `{"x":"`+strings.Repeat("x", 2<<20)+`"}`).String()
	}
	raw := func(text string) func(*message) { return func(m *message) { m.raw = text } }
	withLine := func(name string, status int, header string) malformed {
		return line(name, status, func(m *message) { m.header(header) })
	}
	kind := func(value string) func(*message) { return func(m *message) { m.contentType = value } }
	method := func(name string) func(*message) { return func(m *message) { m.method = name } }
	upgrade := func(m *message) {
		m.header("connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
	}
	notAllowed := func(name string) malformed {
		c := line("method "+name, 405, method(name))
		c.answer = []string{"allow"}
		return c
	}
	return []malformed{
		text("2 MiB where 1 MiB is the limit", 413, large),
		{name: "2 MiB in chunks", status: 413, each: true, edit: func(l lane, m *message) { m.body, m.chunk = large(l), 64<<10 }},
		line("chunk with a size that is no number", 400, func(m *message) {
			m.length = "-"
			m.header("transfer-encoding: chunked")
			m.body = "zz\r\nabc\r\n0\r\n\r\n"
		}),
		line("chunk of more bytes than there are numbers", 400, func(m *message) {
			m.length = "-"
			m.header("transfer-encoding: chunked")
			m.body = "fffffffffffffffff\r\nabc"
		}),
		// Two parties that disagree on where a request ends is request smuggling (section 11.2).
		early(withLine("two content-lengths that differ", 400, "content-length: 3")),
		early(line("content-length twice", 400, func(m *message) { m.header(fmt.Sprintf("content-length: %d", len(m.body))) })),
		early(withLine("content-length and chunked", 400, "transfer-encoding: chunked")),
		early(line("content-length negative", 400, func(m *message) { m.length = "-1" })),
		early(line("content-length text", 400, func(m *message) { m.length = "many" })),
		early(line("content-length list", 400, func(m *message) { m.length = "5, 5" })),
		early(line("content-length with a sign", 400, func(m *message) { m.length = "+5" })),
		early(line("content-length hexadecimal", 400, func(m *message) { m.length = "0x10" })),
		early(line("transfer-encoding gzip", 501, func(m *message) { m.length = "-"; m.header("transfer-encoding: gzip") })),
		early(line("transfer-encoding xchunked", 501, func(m *message) { m.length = "-"; m.header("transfer-encoding: xchunked") })),
		early(line("transfer-encoding before a space", 400, func(m *message) { m.length = "-"; m.header("transfer-encoding : chunked") })),
		early(withLine("space before the colon", 400, "x-a : b")), early(withLine("header without a name", 400, ": b")),
		early(withLine("header without a colon", 400, "nonsense")), early(withLine("NUL in a header", 400, "x-a: a\x00b")),
		early(key("NUL in the key", 400, "test-key\x000123456789")),
		early(withLine("header of 70 KiB", 431, "x-a: "+strings.Repeat("a", 70<<10))),
		early(line("300 headers", 431, func(m *message) {
			for i := range 300 {
				m.header(fmt.Sprintf("x-%d: y", i))
			}
		})),
		early(line("no host", 400, func(m *message) { m.host = "-" })),
		withLine("two hosts", 400, "host: other.test"),
		early(line("host with a space", 400, func(m *message) { m.host = "a b/c" })),
		withLine("gzip", 415, "content-encoding: gzip"), withLine("brotli", 415, "content-encoding: br"), withLine("two encodings", 415, "content-encoding: identity, gzip"),
		each(line("text/plain", 415, kind("text/plain"))), each(line("form content-type", 415, kind("application/x-www-form-urlencoded"))),
		each(line("multipart", 415, kind("multipart/form-data; boundary=x"))), each(line("octet-stream", 415, kind("application/octet-stream"))),
		line("websocket", 426, upgrade),
		line("websocket with GET", 426, func(m *message) { m.method, m.body, m.length = "GET", "", "-"; upgrade(m) }),
		only("openai", line("websocket of the Responses API", 426, func(m *message) {
			m.method, m.target, m.body, m.length = "GET", "/v1/responses", "", "-"
			upgrade(m)
		})),
		early(line("HTTP/1.0", 426, func(m *message) { m.proto = "HTTP/1.0" })), early(line("HTTP/1.2", 426, func(m *message) { m.proto = "HTTP/1.2" })),
		early(line("HTTP/0.9", 426, raw("GET /v1/models\r\n\r\n"))),
		early(line("TLS on a plain port", 400, raw("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"+strings.Repeat("x", 160)))),
		early(line("noise", 400, raw("\x00\x01\x02\x03\r\n\r\n"))),
		line("CONNECT", 404, func(m *message) { m.method, m.target, m.body, m.length = "CONNECT", "gateway.test:443", "", "-" }),
		notAllowed("GET"), notAllowed("PUT"), notAllowed("PATCH"), notAllowed("DELETE"), notAllowed("OPTIONS"), notAllowed("TRACE"), notAllowed("HEAD"),
		early(line("unknown method", 400, method("BREW"))), early(line("method in lower case", 400, method("post"))),
		// What the caller chose goes into answers as text, not as JSON.
		line("request id with quotes", 400, func(m *message) { m.header(`x-request-id: a"},{"b\`); m.body = "{" }),
		line("request id that is no UTF-8", 400, func(m *message) { m.header("x-request-id: a\xff\xfeb"); m.body = "{" }),
		line("request id that is no UTF-8, and websocket", 426, func(m *message) { m.header("x-request-id: a\xff\xfeb"); upgrade(m) }),
		early(line("request id that is no UTF-8, and a bad path", 400, func(m *message) { m.header("x-request-id: a\xff\xfeb"); m.target += "%00" })),
		early(line("query that is no UTF-8", 400, func(m *message) { m.target += "?a=\xff\xfe" })),
		field("model with quotes", "model", `"a\"},{\"b"`, 404),
	}
}

// oddPaths are unknown: what a provider might read otherwise than Weir is not guessed at.
func oddPaths() []malformed {
	path := func(name string, status int, target func(string) string) malformed {
		return malformed{name: name, status: status, edit: func(_ lane, m *message) { m.target = target(m.target) }}
	}
	plain := func(name, target string) malformed {
		return path(name, 404, func(string) string { return target })
	}
	return []malformed{
		plain("root", "/"), plain("unknown path", "/v2/chat"), plain("parents of the root", "/../../etc/passwd"), plain("path of 3,000 bytes", "/"+strings.Repeat("a", 3000)),
		plain("admin path", "/api/status"), plain("Envoy's own paths", "/config_dump"),
		path("double slash in front", 404, func(p string) string { return "/" + p }),
		path("double slash inside", 404, func(p string) string { return strings.Replace(p, "/v1/", "/v1//", 1) }),
		path("double slash behind", 404, func(p string) string { return p + "//" }),
		path("encoded slash", 404, func(p string) string { return strings.Replace(p, "/v1/", "/v1%2F", 1) }),
		path("twice encoded letter", 404, func(p string) string { return strings.Replace(p, "/v1/", "/v%2531/", 1) }),
		path("upper case", 404, strings.ToUpper), path("path parameter", 404, func(p string) string { return p + ";a=b" }),
		path("more behind", 404, func(p string) string { return p + "/x" }), path("out of the path", 404, func(p string) string { return p + "/../../x" }),
		early(path("fragment", 400, func(p string) string { return p + "#x" })), early(path("encoded NUL", 400, func(p string) string { return p + "%00" })),
		early(path("backslash", 400, func(p string) string { return strings.ReplaceAll(p, "/", `\`) })), early(path("asterisk", 400, func(string) string { return "*" })),
	}
}

// oddButRight are requests that look strange and must work.
func oddButRight() []malformed {
	path := func(name string, target func(string) string) malformed {
		return malformed{name: name, status: http.StatusOK, edit: func(_ lane, m *message) { m.target = target(m.target) }}
	}
	headers := func(name string, lines ...string) malformed {
		return each(line(name, http.StatusOK, func(m *message) { m.header(lines...) }))
	}
	deep := nested(`{"type":"object","properties":{"a":`, `{"type":"string"}`, "}}", 40)
	tools := func(l lane) string {
		if l.dialect == "anthropic" {
			return `[{"name":"f","description":"d","input_schema":` + deep + `}]`
		}
		return `[{"type":"function","function":{"name":"f","description":"d","parameters":` + deep + `}}]`
	}
	long := make([]string, 5001)
	for i := range long {
		long[i] = fmt.Sprintf(`{"role":%q,"content":"message %d"}`, [2]string{"user", "assistant"}[i%2], i)
	}
	return []malformed{
		each(line("nothing odd", http.StatusOK, func(*message) {})),
		text("tool schema 40 levels deep", http.StatusOK, func(l lane) string { return l.fields().set("tools", tools(l)).String() }),
		field("5,001 messages", "messages", "["+strings.Join(long, ",")+"]", http.StatusOK),
		field("stream null", "stream", "null", http.StatusOK), field("stream false", "stream", "false", http.StatusOK),
		field("escapes in the text", "messages", `[{"role":"user","content":"\ud83d\ude00 \u0000 \" \\ \/"}]`, http.StatusOK),
		text("white space everywhere", http.StatusOK, func(l lane) string {
			return " \r\n" + strings.NewReplacer(":", " :\t", ",", "\n,\r ").Replace(l.fields().String()) + "\n\n"
		}),
		each(line("chunks of 3 bytes", http.StatusOK, func(m *message) { m.chunk = 3 })),
		each(line("no content-type", http.StatusOK, func(m *message) { m.contentType = "-" })),
		each(line("content-type in capitals with a charset", http.StatusOK, func(m *message) { m.contentType = "Application/JSON; charset=UTF-8" })),
		headers("content-encoding identity", "content-encoding: identity"),
		headers("Expect", "expect: 100-continue"), headers("HTTP/2 offered", "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAARAAAAAAAIAAAAA"),
		// Section 5.2 lets a server replace a folded line by spaces; the tests of what arrived look for the rest.
		headers("folded header", "x-a: b\r\n x-weir-rule: c"), headers("bare CR in a header", "x-a: b\rx-weir-rule: c"), headers("bare LF", "x-a: b\nx-c: d"),
		headers("UTF-8 in a header", "x-a: é"),
		// What is no UTF-8 cannot travel in protobuf text: neither the decision nor the record of the request may be lost to it.
		headers("no UTF-8 in headers", "user-agent: \xff\xfe", "referer: \xff\xfe", "x-a: \xff", "x-forwarded-for: \xff", "x-request-id: \xe9\xff"),
		headers("Weir's and Envoy's own headers", "x-weir-rule: default/other", "X-Weir-Path: /evil", "x-weir-exchange: 1", "x-envoy-retry-on: 5xx",
			"x-envoy-original-path: /evil", "x-envoy-upstream-alt-stat-name: x", "x-forwarded-for: 10.0.0.1", "x-forwarded-host: evil.test"),
		headers("the same key twice, in two headers", "api-key: "+harness.DefaultKey),
		path("single dot", func(p string) string { return strings.Replace(p, "/v1/", "/v1/./", 1) }),
		path("parent", func(p string) string { return "/x/.." + p }),
		path("encoded dot", func(p string) string { return strings.Replace(p, "/v1/", "/v1/%2e/", 1) }),
		path("encoded letter", func(p string) string { return strings.Replace(p, "/v1/", "/%761/", 1) }),
		path("slash behind", func(p string) string { return p + "/" }), path("query", func(p string) string { return p + "?trace=1&x=%00" }),
		path("absolute form", func(p string) string { return "http://evil.test" + p }), path("prefix", func(p string) string { return "/team-a" + p }),
		key("token", http.StatusOK, token(func(jwt.MapClaims) {})),
	}
}
