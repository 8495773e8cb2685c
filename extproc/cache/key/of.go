package key

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/extproc/cache"
)

// VersionHeader is the request header by which callers say which version of their prompt this is. It is part of the key.
const VersionHeader = "x-weir-prompt-version"

// Input is a request, and on whose behalf it is made.
type Input struct {
	Policy *cache.Policy
	Rule   string // of the route, with its name: it decides which backends may serve the model
	// Models is what these backends call the model, in order and each name once: a name of the caller's that stands for another model than before
	// asks for something else.
	Models    []string
	Tenant    string
	Consumer  string
	Dialect   string
	Operation canon.Operation
	// Body is what a backend would be sent: after a session has added to it.
	Body []byte
	// Request is what the dialect's ParseRequest made of Body; nil where it is no chat, or one that canon cannot carry.
	Request *canon.Request
	// Header gives the request header of that name, which is in lower case, its lines joined by commas; "" where absent.
	Header func(name string) string
}

// Eligibility says what the cache may do for a request.
type Eligibility struct {
	Read  bool // answer from it
	Store bool // keep the answer
	// Why says in a few words why it may do neither; "" where it may.
	Why     string
	Control Control
}

// Of gives the key of a request and what the cache may do for it. The key is zero where that is nothing. The error is an
// ErrInvalidRequest: a header that makes no sense, or a body that is no JSON object.
func Of(in *Input) (cache.Key, Eligibility, *canon.Error) {
	var e Eligibility
	var err *canon.Error
	if e.Control, err = ParseControl(in.Header(ControlHeader)); err != nil {
		return cache.Key{}, e, err
	}
	q, err := read(in)
	if err != nil {
		return cache.Key{}, e, err
	}
	if e.Why = in.refused(&q, &e.Control); e.Why != "" {
		return cache.Key{}, e, nil
	}
	e.Read, e.Store = !e.Control.NoCache && e.Control.MaxAge != 0, true
	s := in.begin('A')
	in.finish(s, &q, false)
	return s.key(), e, nil
}

// Guard gives what a request found by its meaning must have in common with the one whose answer it gets: everything but the texts of its
// last message, which are given too, joined by line ends. ok is false where these do not tell the meaning: for a chat that ends with
// a tool's result or the beginning of an answer, and for all that is no chat in the form of canon.
func Guard(in *Input) (guard cache.Key, text string, ok bool) {
	if in.Request == nil || len(in.Request.Messages) == 0 {
		return cache.Key{}, "", false
	}
	last := &in.Request.Messages[len(in.Request.Messages)-1]
	if last.Role != canon.RoleUser {
		return cache.Key{}, "", false
	}
	var texts []string
	for i := range last.Parts {
		if p := &last.Parts[i]; p.Kind == canon.PartText {
			texts = append(texts, p.Text)
		}
	}
	if text = strings.Join(texts, "\n"); strings.TrimSpace(text) == "" {
		return cache.Key{}, "", false
	}
	q, err := read(in)
	if err != nil {
		return cache.Key{}, "", false
	}
	s := in.begin('G')
	in.finish(s, &q, true)
	return s.key(), text, true
}

// request is what is known of a body beside its canon form.
type request struct {
	root   jsonx.Value
	extras extras // of a chat that canon carries
	stream bool   // of one that it does not
}

func read(in *Input) (q request, err *canon.Error) {
	// A body that has a canon form was checked when that was made.
	if in.Request == nil {
		if e := jsonx.Check(in.Body); e != nil {
			return q, &canon.Error{Kind: canon.ErrInvalidRequest, Message: "The body is not valid JSON: " + e.Error() + "."}
		}
	}
	q.root = jsonx.Root(in.Body)
	if q.root.Kind() != jsonx.Object {
		return q, &canon.Error{Kind: canon.ErrInvalidRequest, Message: "The body must be a JSON object, not " + q.root.Kind().String() + "."}
	}
	if in.Request == nil {
		q.stream, _ = q.root.Get("stream").Bool()
		q.extras.live = live(q.root)
		return q, nil
	}
	switch in.Dialect {
	case "openai":
		q.extras.openai(q.root)
	case "anthropic":
		q.extras.anthropic(q.root)
	default:
		q.extras.unknown(q.root)
	}
	return q, nil
}

// unknown reads a chat of a dialect whose shape is not known: all of it counts.
func (x *extras) unknown(root jsonx.Value) {
	x.object(at{"body", -1, -1}, root, nil, notCounted)
	x.live = live(root)
}

// live tells whether a body that is not known in detail asks for tools that run at the provider, and find something else each day.
func live(root jsonx.Value) bool {
	for name, v := range root.Members() {
		switch string(name) {
		case "web_search_options", "enable_search", "search_options", "mcp_servers", "container":
			if on, isBool := v.Bool(); !v.Missing() && (on || !isBool) && string(v) != "[]" {
				return true
			}
		case "tools":
			for _, t := range v.Elements() {
				switch t.Get("type").Share() {
				case "", "function", "custom":
				default:
					return true
				}
			}
		}
	}
	return false
}

// refused says why the cache can do nothing for a request; "" where it can.
func (in *Input) refused(q *request, c *Control) string {
	switch in.Operation {
	case canon.OpChat, canon.OpResponses, canon.OpEmbeddings, canon.OpCompletions, canon.OpCountTokens:
	default:
		return "the operation is not kept"
	}
	if in.Operation == canon.OpResponses {
		if why := remembering(q.root); why != "" {
			return why
		}
	}
	p := in.Policy
	switch {
	case c.NoStore:
		return "the caller said no-store"
	case p.Scope == cache.ScopeConsumer && in.Consumer == "":
		return "the policy keeps answers by consumer, and the caller is none"
	case p.Eligible == cache.EligibleOptIn && !c.Asks():
		return "the caller did not ask for the cache"
	case p.Eligible != cache.EligibleDeterministic:
		return ""
	case in.Operation == canon.OpEmbeddings, in.Operation == canon.OpCountTokens:
		return ""
	case q.extras.live:
		return "the provider would search for the answer"
	}
	temperature, seeded := in.chance(q)
	switch {
	case p.Seeded && seeded:
		return ""
	case temperature == nil:
		return "it sets no temperature"
	case *temperature > p.MaxTemperature:
		return "its temperature is too high"
	}
	return ""
}

// remembering says why a request of the Responses API does something at the provider, or depends on what is kept there; "" where it does not.
func remembering(root jsonx.Value) string {
	for _, name := range [...]string{"conversation", "previous_response_id"} {
		if !root.Get(name).Missing() {
			return "it continues a conversation that the provider keeps"
		}
	}
	if v := root.Get("background"); !v.Missing() {
		if on, ok := v.Bool(); on || !ok {
			return "it runs in the background"
		}
	}
	if keep, ok := root.Get("store").Bool(); keep || !ok {
		return "the provider keeps the response"
	}
	return ""
}

// chance gives what a request says of it.
func (in *Input) chance(q *request) (temperature *float64, seeded bool) {
	if r := in.Request; r != nil {
		return r.Temperature, r.Seed != nil
	}
	if t, ok := q.root.Get("temperature").Float(); ok {
		temperature = &t
	}
	return temperature, !q.root.Get("seed").Missing()
}

// begin hashes who may share the answer, and what it was made under. purpose keeps two uses of the hash apart.
func (in *Input) begin(purpose byte) *sum {
	s := newSum()
	s.tag(purpose)
	p := in.Policy
	s.text(p.ID)
	s.tag(byte(p.Scope))
	if p.Scope != cache.ScopeShared {
		s.text(in.Tenant)
	}
	if p.Scope == cache.ScopeConsumer {
		s.text(in.Consumer)
	}
	s.text(in.Rule)
	s.uint(uint64(len(in.Models)))
	for _, m := range in.Models {
		s.text(m)
	}
	s.text(p.PromptVersion)
	s.text(in.Header(VersionHeader))
	s.text(string(in.Operation))
	return s
}

// finish hashes the request itself.
func (in *Input) finish(s *sum, q *request, guard bool) {
	if r := in.Request; r != nil {
		s.tag('C')
		s.chat(r, guard)
		q.extras.hash(s, in.Dialect, r.Stream, q.root)
	} else {
		s.tag('B')
		s.text(in.Dialect)
		s.bool(q.stream)
		q.extras.object(at{"body", -1, -1}, q.root, nil, notCounted)
		q.extras.hash(s, in.Dialect, q.stream, q.root)
	}
	in.betas(s)
}

// betas hashes the header by which Anthropic's clients switch on what changes answers. Their order does not matter.
func (in *Input) betas(s *sum) {
	const header = "anthropic-beta"
	v := in.Header(header)
	if in.Dialect != "anthropic" || v == "" {
		return
	}
	list := strings.Split(v, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	slices.Sort(list)
	list = slices.Compact(list)
	s.tag('H')
	s.uint(uint64(len(list)))
	for _, b := range list {
		s.text(b)
	}
}
