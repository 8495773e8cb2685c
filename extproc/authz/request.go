package authz

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/weir-dev/weir/extproc/identity"
)

// request is what a check reads of a request.
type request struct {
	method, path string // without the query
	id           string
	credentials  identity.Headers
	forwarded    []string   // lines of x-forwarded-for
	claims       []string   // names of headers that only Weir may set
	source       netip.Addr // the peer; zero where it is not known

	http *authv3.AttributeContext_HttpRequest
}

// prefix of the headers that tell an upstream who calls.
const prefix = "x-weir-"

// readRequest reads the headers, which come one by one or, by default, as a map in which Envoy has joined lines of one
// name by commas. Two credentials joined in such a way are no credential, so they are refused all the same.
func readRequest(m *authv3.CheckRequest) *request {
	h := m.GetAttributes().GetRequest().GetHttp()
	r := &request{method: h.GetMethod(), id: h.GetId(), http: h}
	r.path, _, _ = strings.Cut(h.GetPath(), "?")
	if list := h.GetHeaderMap().GetHeaders(); len(list) > 0 {
		for _, kv := range list {
			r.add(kv.GetKey(), value(kv))
		}
	} else {
		for name, v := range h.GetHeaders() {
			r.add(name, v)
		}
	}
	addr, err := netip.ParseAddr(m.GetAttributes().GetSource().GetAddress().GetSocketAddress().GetAddress())
	if err == nil {
		r.source = addr.Unmap().WithZone("")
	}
	return r
}

func (r *request) add(name, v string) {
	if r.credentials.Add(name, v) {
		return
	}
	name = strings.ToLower(name)
	// CGI and its heirs take x_weir_tenant for x-weir-tenant.
	if strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), prefix) {
		r.claims = append(r.claims, name)
		return
	}
	if name == "x-forwarded-for" {
		r.forwarded = append(r.forwarded, v)
	}
}

func value(kv *corev3.HeaderValue) string {
	if raw := kv.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return kv.GetValue()
}

// header gives the first header of a name in lower case. Few ask, so it looks.
func (r *request) header(name string) string {
	for _, kv := range r.http.GetHeaderMap().GetHeaders() {
		if strings.EqualFold(kv.GetKey(), name) {
			return value(kv)
		}
	}
	return r.http.GetHeaders()[name]
}

// client is the caller's address. With trusted hops it is what the first of those proxies has seen: the last address in
// x-forwarded-for is the peer's, which the other Envoy has added, and those before are from the hops. Where
// the header is not like that the peer's address stands: a caller must not choose one. For a peer on loopback Envoy adds
// an address of its own host instead, which cannot be told from another.
func (r *request) client(hops int) netip.Addr {
	if hops == 0 {
		return r.source
	}
	list := strings.Split(strings.Join(r.forwarded, ","), ",")
	if len(list) <= hops {
		return r.source
	}
	at := func(fromEnd int) netip.Addr {
		addr, err := netip.ParseAddr(strings.TrimSpace(list[len(list)-1-fromEnd]))
		if err != nil {
			return netip.Addr{}
		}
		return addr.Unmap().WithZone("")
	}
	first := at(hops)
	if !first.IsValid() || at(0) != r.source && !r.source.IsLoopback() {
		return r.source
	}
	return first
}
