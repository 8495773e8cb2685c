package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/xds/source"
)

// maxExplained bounds the body of POST /api/explain, and the file of weir explain request: more than any request body in practice.
const maxExplained = 64 << 20

// explainBody is what POST /api/explain takes, and a file of weir explain request that is more than a body.
type explainBody struct {
	Method  string                  `json:"method,omitempty"`
	Path    string                  `json:"path,omitempty"`
	Headers map[string]headerValues `json:"headers,omitempty"`
	// Body is the request's body as it stands; a string is a body that is no JSON, by its text.
	Body json.RawMessage `json:"body,omitempty"`
	// BodyBase64 is for bytes that JSON cannot hold.
	BodyBase64 []byte `json:"bodyBase64,omitempty"`
	Consumer   string `json:"consumer,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	Source     string `json:"source,omitempty"`
	Gateway    string `json:"gateway,omitempty"`
}

// headerValues is a header: a string, or a list of them for several lines.
type headerValues []string

// UnmarshalJSON takes both.
func (v *headerValues) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*v = headerValues{one}
		return nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return errors.New("a header is a string, or a list of strings")
	}
	*v = list
	return nil
}

// parseExplainBody reads an explainBody. Members that it does not have are errors: they would be taken for parts of the request.
func parseExplainBody(raw []byte) (*explainBody, error) {
	var b explainBody
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return nil, fmt.Errorf("the request to explain cannot be read: %w; it is an object with method, path, headers, body, consumer, tenant, source and gateway", err)
	}
	if d.More() {
		return nil, errors.New("the request to explain cannot be read: there is something after the object")
	}
	return &b, nil
}

// request is the request that is to be explained.
func (b *explainBody) request() (extproc.ExplainRequest, error) {
	out := extproc.ExplainRequest{
		Method: strings.ToUpper(b.Method), Path: b.Path, Body: b.Body, Consumer: b.Consumer, Tenant: b.Tenant, Gateway: b.Gateway,
	}
	if !strings.HasPrefix(b.Path, "/") {
		return out, fmt.Errorf("the path %q does not begin with /", b.Path)
	}
	var text string
	switch {
	case len(b.BodyBase64) > 0 && len(b.Body) > 0:
		return out, errors.New("the body is given twice: as body and as bodyBase64")
	case len(b.BodyBase64) > 0:
		out.Body = b.BodyBase64
	case string(b.Body) == "null":
		out.Body = nil
	case json.Unmarshal(b.Body, &text) == nil:
		out.Body = []byte(text)
	}
	for _, name := range slices.Sorted(maps.Keys(b.Headers)) {
		for _, v := range b.Headers[name] {
			if name == "" || strings.ContainsAny(name, " \t\r\n:") || strings.ContainsAny(v, "\r\n\x00") {
				return out, fmt.Errorf("%q is no header of HTTP", name) // its value may be a secret
			}
			out.Headers = append(out.Headers, [2]string{name, v})
		}
	}
	if b.Source != "" {
		at, err := netip.ParseAddr(b.Source)
		if err != nil {
			return out, fmt.Errorf("the source %q is no IP address", b.Source)
		}
		out.Source = at
	}
	return out, nil
}

// explain answers what would become of a request. It sends and counts nothing. The request may carry a key, so nothing of it is logged.
func (g *gateway) explain(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, err error) { api.Fail(w, status, err.Error()) }
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(http.MaxBytesReader(w, r.Body, maxExplained)); err != nil {
		fail(http.StatusRequestEntityTooLarge, fmt.Errorf("the request to explain cannot be read: %w", err))
		return
	}
	body, err := parseExplainBody(raw.Bytes())
	if err != nil {
		fail(http.StatusBadRequest, err)
		return
	}
	req, err := body.request()
	if err != nil {
		fail(http.StatusBadRequest, err)
		return
	}
	if err := knownGateway(g.objects.Load(), req.Gateway); err != nil {
		fail(http.StatusBadRequest, err)
		return
	}
	x, err := g.ext.Explain(r.Context(), req)
	if err != nil {
		fail(http.StatusBadRequest, err)
		return
	}
	g.explainWeights(x)
	w.Header().Set("content-type", "application/json")
	w.Header().Set("cache-control", "no-store")
	_ = json.NewEncoder(w).Encode(x) // the client went away
}

// knownGateway says which gateways there are, where the one that is named is not among them.
func knownGateway(objs *source.Objects, name string) error {
	if objs == nil || name == "" {
		return nil
	}
	var there []string
	for _, o := range objs.Gateways {
		there = append(there, o.Namespace+"/"+o.Name)
	}
	if slices.Contains(there, name) {
		return nil
	}
	if len(there) == 0 {
		return fmt.Errorf("there is no LLMGateway %s: there is none at all", name)
	}
	slices.Sort(there)
	return fmt.Errorf("there is no LLMGateway %s; there is %s", name, strings.Join(there, ", "))
}

// explainWeights adds to the endpoints of pools what the load controller says of them.
func (g *gateway) explainWeights(x *extproc.Explanation) {
	pools := map[string]*extproc.ExplainedPool{}
	for i := range x.Candidates {
		if c := &x.Candidates[i]; c.Pool != nil {
			pools[c.Backend] = c.Pool
		}
	}
	if len(pools) == 0 {
		return
	}
	for _, p := range g.steering.State().Pools {
		pool := pools[p.Backend]
		if pool == nil {
			continue
		}
		for i := range pool.Endpoints {
			e := &pool.Endpoints[i]
			for j := range p.Endpoints {
				if known := &p.Endpoints[j]; known.Key == e.Endpoint {
					e.Weight, e.Why = known.Weight, known.Why()
				}
			}
		}
	}
}
