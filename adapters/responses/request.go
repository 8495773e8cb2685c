package responses

import (
	"bytes"
	"encoding/json"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

const (
	// maxMembers bounds the top-level members of a request; the API knows about 40.
	maxMembers = 200
	// OpenAI's limits on metadata: pairs, and bytes here where OpenAI counts characters.
	maxMetadata, maxMetadataKey, maxMetadataValue = 16, 64, 4 * 512
)

// Request is the body of POST /v1/responses. It shares its bytes with the body.
type Request struct {
	State State
	Input []Item

	// Keep is called, where it is set, with the response object of an answer that has come to its end, before the last bytes are
	// printed: whoever reads them may ask for the response at once. The answer says store: false if Keep does.
	Keep func(object []byte) bool

	// chat is what a chat request says beside its messages.
	chat canon.Request
	echo echo
	// spaces are the functions of namespaces, by the names that providers know them by.
	spaces map[string]function
}

// State is what a request says about the past, and about what becomes of the answer.
type State struct {
	PreviousResponseID string // "" where none
	Conversation       string // "" where none; never together with PreviousResponseID
	Store              bool   // the answer is to be kept; true unless the caller says no
	Instructions       string // for this answer alone: they are not inherited
	Metadata           json.RawMessage
	Encrypted          bool // the caller wants to keep the reasoning itself: include has reasoning.encrypted_content
}

// Model is the model that was asked for.
func (r *Request) Model() string { return r.chat.Model }

// Stream reports whether the answer is to be streamed.
func (r *Request) Stream() bool { return r.chat.Stream }

// members are the top-level fields of a body.
type members []struct {
	name  []byte
	value jsonx.Value
}

func (m members) get(name string) jsonx.Value {
	for i := range m {
		if string(m[i].name) == name {
			return m[i].value
		}
	}
	return nil
}

// Parse reads the body of POST /v1/responses, which must not change as long as the Request is used: strict on the shape of what it
// knows, lenient on fields it does not know. A failure names the field.
func Parse(body []byte) (*Request, *canon.Error) {
	m, err := object(body)
	if err != nil {
		return nil, err
	}
	r := &Request{State: State{Store: true}}
	if r.chat.Model, err = fields.ReqString(m.get("model"), "model"); err != nil {
		return nil, fields.Sentence(err)
	}
	for _, step := range [...]func(members) *canon.Error{
		r.refuse, r.readState, r.readInput, r.readTools, r.readSampling, r.readText, r.readReasoning, r.readInclude, r.readUser,
	} {
		if err := step(m); err != nil {
			return nil, fields.Sentence(err)
		}
	}
	r.readExtra(m)
	r.echo.read(m)
	return r, nil
}

// object checks a body as JSON and lists its members.
func object(body []byte) (members, *canon.Error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, whole("", "", "the request has no body: send a JSON object")
	}
	if err := jsonx.Check(body); err != nil {
		return nil, whole("", "", "the body is not valid JSON: %s", err)
	}
	root := jsonx.Root(body)
	if root.Kind() != jsonx.Object {
		return nil, whole("", "", "the body must be a JSON object, not %s", root.Kind())
	}
	m := make(members, 0, 24)
	for name, v := range root.Members() {
		if len(m) == maxMembers {
			return nil, whole("", "", "the body has too many members")
		}
		if m.get(string(name)) != nil {
			// Parsers differ in which of the two they read: what one checks, another may not use.
			return nil, whole(string(name), "", "%s is given more than once", name)
		}
		m = append(m, struct {
			name  []byte
			value jsonx.Value
		}{name, v})
	}
	return m, nil
}

// refuse names what would change the answer if it were left out.
func (r *Request) refuse(m members) *canon.Error {
	background, err := fields.OptBool(m.get("background"), "background")
	if err != nil {
		return err
	}
	if background != nil && *background {
		return fields.Cannot("background", "must be false: this answer is made while the caller waits for it")
	}
	if !m.get("prompt").Missing() {
		return fields.Cannot("prompt", "is a template kept at OpenAI, which cannot be translated: send instructions and input")
	}
	return nil
}

func (r *Request) readState(m members) (err *canon.Error) {
	s := &r.State
	if s.PreviousResponseID, err = fields.OptString(m.get("previous_response_id"), "previous_response_id"); err != nil {
		return err
	}
	switch v := m.get("conversation"); v.Kind() {
	case jsonx.None, jsonx.Null:
	case jsonx.String:
		s.Conversation, err = fields.ReqString(v, "conversation")
	case jsonx.Object:
		s.Conversation, err = fields.ReqString(v.Get("id"), "conversation.id")
	default:
		err = fields.WrongKind("conversation", "a string or an object", v)
	}
	if err != nil {
		return err
	}
	if s.Conversation != "" && s.PreviousResponseID != "" {
		err = fields.Bad("", "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you are only providing one of them.")
		err.Code = "mutually_exclusive_parameters"
		return err
	}
	store, err := fields.OptBool(m.get("store"), "store")
	if err != nil {
		return err
	}
	s.Store = store == nil || *store
	if _, err := oneOf(m.get("truncation"), "truncation", "auto", "disabled"); err != nil {
		return err
	}
	if s.Instructions, err = fields.OptString(m.get("instructions"), "instructions"); err != nil {
		return err
	}
	s.Metadata, err = readMetadata(m.get("metadata"))
	return err
}

// readMetadata checks an object of strings.
func readMetadata(v jsonx.Value) (json.RawMessage, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	if v.Kind() != jsonx.Object {
		return nil, fields.WrongKind("metadata", "an object of strings", v)
	}
	n := 0
	for name, e := range v.Members() {
		if n++; n > maxMetadata {
			return nil, fields.Bad("metadata", "must have at most %d members", maxMetadata)
		}
		if e.Kind() != jsonx.String {
			return nil, fields.WrongKind("metadata."+fields.Clip(string(name)), "a string", e)
		}
		if len(name) > maxMetadataKey || len(e) > maxMetadataValue {
			return nil, fields.Bad("metadata."+fields.Clip(string(name)), "is too long: names have at most 64 characters, values 512")
		}
	}
	return json.RawMessage(v), nil
}

func (r *Request) readInput(m members) *canon.Error {
	v := m.get("input")
	switch v.Kind() {
	case jsonx.None, jsonx.Null:
		if r.State.Conversation == "" && r.State.PreviousResponseID == "" {
			return fields.WrongKind("input", "a string or an array of items", nil)
		}
		return nil
	case jsonx.String:
		r.Input = []Item{{Kind: KindMessage, Role: canon.RoleUser, Parts: []canon.Part{{Text: v.Share()}}}}
		return nil
	}
	var err *canon.Error
	r.Input, err = readItems(v, "input")
	return err
}

func (r *Request) readSampling(m members) (err *canon.Error) {
	c := &r.chat
	if c.MaxTokens, err = optInt(m.get("max_output_tokens"), "max_output_tokens", 1); err != nil {
		return err
	}
	if c.Temperature, err = fields.OptFloat(m.get("temperature"), "temperature", 0, 2); err != nil {
		return err
	}
	if c.TopP, err = fields.OptFloat(m.get("top_p"), "top_p", 0, 1); err != nil {
		return err
	}
	stream, err := fields.OptBool(m.get("stream"), "stream")
	if err != nil {
		return err
	}
	c.Stream = stream != nil && *stream
	c.IncludeUsage = true // every answer of this API ends with it
	if v := m.get("stream_options"); !v.Missing() && v.Kind() != jsonx.Object {
		return fields.WrongKind("stream_options", "an object", v)
	}
	return nil
}

func (r *Request) readText(m members) *canon.Error {
	text := m.get("text")
	if text.Missing() {
		return nil
	}
	if text.Kind() != jsonx.Object {
		return fields.WrongKind("text", "an object", text)
	}
	if v := text.Get("verbosity"); !v.Missing() {
		if _, err := oneOf(v, "text.verbosity", "low", "medium", "high"); err != nil {
			return err
		}
		r.chat.Extra = append(r.chat.Extra, "text.verbosity")
	}
	format := text.Get("format")
	if format.Missing() {
		return nil
	}
	if format.Kind() != jsonx.Object {
		return fields.WrongKind("text.format", "an object", format)
	}
	f := format.Fields()
	kind, err := fields.ReqString(f.Get("type"), "text.format.type")
	if err != nil {
		return err
	}
	switch kind {
	case "text": // the default: the same as saying nothing
		return nil
	case "json_object":
		r.chat.Format = &canon.Format{Kind: canon.FormatJSON}
		return nil
	case "json_schema":
	case "grammar", "python":
		return fields.Cannot("text.format.type", "is %q, which cannot be translated: only text, json_object and json_schema can", kind)
	default:
		return fields.Bad("text.format.type", "must be text, json_object or json_schema, not %q", fields.Clip(kind))
	}
	r.chat.Format, err = fields.Schema(&f, "text.format", "a JSON Schema object")
	return err
}

func (r *Request) readReasoning(m members) *canon.Error {
	v := m.get("reasoning")
	if v.Missing() {
		return nil
	}
	if v.Kind() != jsonx.Object {
		return fields.WrongKind("reasoning", "an object", v)
	}
	effort, err := oneOf(v.Get("effort"), "reasoning.effort", "none", "minimal", "low", "medium", "high", "xhigh", "max")
	if err != nil {
		return err
	}
	switch effort {
	case "":
	case "none":
		r.chat.Reasoning = &canon.Reasoning{Disabled: true}
	default:
		r.chat.Reasoning = &canon.Reasoning{Effort: effort}
	}
	for _, field := range [...]string{"summary", "generate_summary"} { // the older name, and still in the SDKs
		word, err := oneOf(v.Get(field), "reasoning."+field, "auto", "concise", "detailed", "none")
		if err != nil {
			return err
		}
		if word != "" && word != "none" {
			r.echo.summary = word
		}
	}
	r.echo.effort = effort
	return nil
}

// readInclude takes what can be included; the rest asks for parts that no answer here has.
func (r *Request) readInclude(m members) *canon.Error {
	v := m.get("include")
	if v.Missing() {
		return nil
	}
	if v.Kind() != jsonx.Array {
		return fields.WrongKind("include", "an array of strings", v)
	}
	for i, e := range v.Elements() {
		word, err := fields.ReqString(e, "")
		if err != nil {
			return fields.At(err, "include", i)
		}
		switch word {
		case "reasoning.encrypted_content":
			r.State.Encrypted = true
		case "message.output_text.logprobs":
			r.chat.Extra = append(r.chat.Extra, "include:"+word)
		}
	}
	return nil
}

// readUser takes user, or the field that succeeds it.
func (r *Request) readUser(m members) *canon.Error {
	for _, field := range [...]string{"safety_identifier", "user"} {
		id, err := fields.OptString(m.get(field), field)
		if err != nil {
			return err
		}
		if id != "" {
			r.chat.User = id
		}
	}
	return nil
}

// readExtra names what is known and not carried.
func (r *Request) readExtra(m members) {
	for i := range m {
		switch name, v := string(m[i].name), m[i].value; name {
		case "service_tier":
			if s := v.Str(); s != "" && s != "auto" && s != "default" {
				r.chat.Extra = append(r.chat.Extra, name)
			}
		case "truncation": // nobody but the provider knows when an input is too long
			if v.Str() == "auto" {
				r.chat.Extra = append(r.chat.Extra, name)
			}
		case "top_logprobs":
			if n, ok := v.Int(); ok && n > 0 {
				r.chat.Extra = append(r.chat.Extra, name)
			}
		case "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "moderation", "context_management", "access_programs":
			if !v.Missing() {
				r.chat.Extra = append(r.chat.Extra, name)
			}
		}
	}
}
