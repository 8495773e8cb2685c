package openai

import (
	"bytes"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// maxMembers bounds the top-level members of a request; the API knows about 50.
const maxMembers = 200

// request holds the raw values of the fields that canon can carry.
type request struct {
	model, messages                                jsonx.Value
	tools, toolChoice, parallel                    jsonx.Value
	maxCompletionTokens, maxTokens                 jsonx.Value
	temperature, topP, topK, presence, frequency   jsonx.Value
	seed, stop, n, stream, streamOptions           jsonx.Value
	format, effort, enableThinking, thinkingBudget jsonx.Value
	user, safetyIdentifier, modalities             jsonx.Value
	functions, functionCall                        jsonx.Value
	extra                                          []string
}

// ParseRequest reads a chat request: strict on the shape of what it knows, lenient on fields it
// does not know.
func (inbound) ParseRequest(body []byte) (*canon.Request, *canon.Error) {
	q, err := split(body)
	if err != nil {
		return nil, err
	}
	r, err := q.read()
	if err != nil {
		return nil, fields.Sentence(err)
	}
	return r, nil
}

// split checks the body as JSON and sorts its members.
func split(body []byte) (*request, *canon.Error) {
	invalid := func(message string) *canon.Error {
		return &canon.Error{Kind: canon.ErrInvalidRequest, Message: message}
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, invalid("the request has no body: send a JSON object")
	}
	if err := jsonx.Check(body); err != nil {
		return nil, invalid("the body is not valid JSON: " + err.Error())
	}
	root := jsonx.Root(body)
	if root.Kind() != jsonx.Object {
		return nil, invalid("the body must be a JSON object, not " + root.Kind().String())
	}
	q := &request{}
	var seen [maxMembers][]byte
	count := 0
	for name, v := range root.Members() {
		if count == maxMembers {
			return nil, invalid("the body has too many members")
		}
		for _, s := range seen[:count] {
			if bytes.Equal(s, name) {
				// Parsers differ in which of the two they read: what one checks, another may not use.
				return nil, &canon.Error{
					Kind: canon.ErrInvalidRequest, Param: string(name),
					Message: string(name) + " is given more than once",
				}
			}
		}
		seen[count] = name
		count++
		q.sort(name, v)
	}
	return q, nil
}

// sort puts one member where read looks for it.
func (q *request) sort(name []byte, v jsonx.Value) {
	switch string(name) {
	case "model":
		q.model = v
	case "messages":
		q.messages = v
	case "tools":
		q.tools = v
	case "tool_choice":
		q.toolChoice = v
	case "parallel_tool_calls":
		q.parallel = v
	case "max_completion_tokens":
		q.maxCompletionTokens = v
	case "max_tokens":
		q.maxTokens = v
	case "temperature":
		q.temperature = v
	case "top_p":
		q.topP = v
	case "top_k": // vLLM, SGLang, Qwen
		q.topK = v
	case "presence_penalty":
		q.presence = v
	case "frequency_penalty":
		q.frequency = v
	case "seed":
		q.seed = v
	case "stop":
		q.stop = v
	case "n":
		q.n = v
	case "stream":
		q.stream = v
	case "stream_options":
		q.streamOptions = v
	case "response_format":
		q.format = v
	case "reasoning_effort":
		q.effort = v
	case "enable_thinking": // Qwen
		q.enableThinking = v
	case "thinking_budget": // Qwen
		q.thinkingBudget = v
	case "user":
		q.user = v
	case "safety_identifier":
		q.safetyIdentifier = v
	case "modalities":
		q.modalities = v
	case "functions":
		q.functions = v
	case "function_call":
		q.functionCall = v
	case "logit_bias", "logprobs", "top_logprobs", "service_tier", "verbosity", "store", "metadata",
		"prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
		"web_search_options", "moderation", "audio",
		// vLLM and SGLang
		"min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos", "logits_processors",
		"chat_template_kwargs", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
		"guided_grammar", "regex", "ebnf", "prompt_logprobs", "priority", "best_of",
		// Qwen
		"enable_search", "search_options", "vl_high_resolution_images", "translation_options":
		if b, ok := v.Bool(); !v.Missing() && (!ok || b) { // null and false ask for nothing
			q.extra = append(q.extra, string(name))
		}
	}
}

// read makes the canon request; its errors lack the final form that ParseRequest gives them.
func (q *request) read() (*canon.Request, *canon.Error) {
	r := &canon.Request{Extra: q.extra}
	var err *canon.Error
	if r.Model, err = fields.ReqString(q.model, "model"); err != nil {
		return nil, err
	}
	for _, step := range []func(*canon.Request) *canon.Error{
		q.refuse, q.readMessages, q.readTools, q.readLimits, q.readSampling, q.readStop, q.readStream,
		q.readFormat, q.readReasoning, q.readUser,
	} {
		if err := step(r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// refuse names what would change the answer if it were left out.
func (q *request) refuse(*canon.Request) *canon.Error {
	n, err := fields.OptInt(q.n, "n")
	if err != nil {
		return err
	}
	if n != nil && *n != 1 {
		return fields.Cannot("n", "must be 1: a request that is translated, or names a session, has one choice")
	}
	if !q.functions.Missing() {
		return fields.Cannot("functions", "is the legacy form of tools and cannot be translated: use tools")
	}
	if !q.functionCall.Missing() {
		return fields.Cannot("function_call", "is the legacy form of tool_choice and cannot be translated: use tool_choice")
	}
	if q.modalities.Missing() {
		return nil
	}
	if q.modalities.Kind() != jsonx.Array {
		return fields.WrongKind("modalities", "an array of strings", q.modalities)
	}
	for _, m := range q.modalities.Elements() {
		if m.Share() != "text" {
			return fields.Cannot("modalities", `must be ["text"]: other outputs cannot be translated`)
		}
	}
	return nil
}

func (q *request) readLimits(r *canon.Request) *canon.Error {
	field, v := "max_completion_tokens", q.maxCompletionTokens
	if v.Missing() {
		field, v = "max_tokens", q.maxTokens
	}
	n, err := fields.OptInt(v, field)
	if err != nil {
		return err
	}
	if n != nil && *n < 1 {
		return fields.Bad(field, "must be at least 1")
	}
	r.MaxTokens = n
	return nil
}

func (q *request) readSampling(r *canon.Request) (err *canon.Error) {
	if r.Temperature, err = fields.OptFloat(q.temperature, "temperature", 0, 2); err != nil {
		return err
	}
	if r.TopP, err = fields.OptFloat(q.topP, "top_p", 0, 1); err != nil {
		return err
	}
	if r.PresencePenalty, err = fields.OptFloat(q.presence, "presence_penalty", -2, 2); err != nil {
		return err
	}
	if r.FrequencyPenalty, err = fields.OptFloat(q.frequency, "frequency_penalty", -2, 2); err != nil {
		return err
	}
	if r.Seed, err = fields.OptInt(q.seed, "seed"); err != nil {
		return err
	}
	k, err := fields.OptInt(q.topK, "top_k")
	if err != nil {
		return err
	}
	if k != nil && *k > 0 { // 0 and -1 switch it off
		r.TopK = k
	}
	return nil
}

func (q *request) readStop(r *canon.Request) *canon.Error {
	switch q.stop.Kind() {
	case jsonx.None, jsonx.Null:
	case jsonx.String:
		if s := q.stop.Share(); s != "" { // an empty sequence can stop nothing
			r.Stop = []string{s}
		}
	case jsonx.Array:
		for i, v := range q.stop.Elements() {
			s, err := fields.ReqString(v, "")
			if err != nil {
				return fields.At(err, "stop", i)
			}
			r.Stop = append(r.Stop, s)
		}
	default:
		return fields.WrongKind("stop", "a string or an array of strings", q.stop)
	}
	return nil
}

func (q *request) readStream(r *canon.Request) *canon.Error {
	stream, err := fields.OptBool(q.stream, "stream")
	if err != nil {
		return err
	}
	r.Stream = stream != nil && *stream
	if q.streamOptions.Missing() {
		return nil
	}
	if q.streamOptions.Kind() != jsonx.Object {
		return fields.WrongKind("stream_options", "an object", q.streamOptions)
	}
	usage, err := fields.OptBool(q.streamOptions.Get("include_usage"), "include_usage")
	if err != nil {
		return fields.Under(err, "stream_options")
	}
	r.IncludeUsage = usage != nil && *usage
	return nil
}

func (q *request) readFormat(r *canon.Request) *canon.Error {
	if q.format.Missing() {
		return nil
	}
	if q.format.Kind() != jsonx.Object {
		return fields.WrongKind("response_format", "an object", q.format)
	}
	kind, err := fields.ReqString(q.format.Get("type"), "response_format.type")
	if err != nil {
		return err
	}
	switch kind {
	case "text": // the default: the same as saying nothing
		return nil
	case "json_object":
		r.Format = &canon.Format{Kind: canon.FormatJSON}
		return nil
	case "json_schema":
	default:
		return fields.Bad("response_format.type", "must be text, json_object or json_schema, not %q", fields.Clip(kind))
	}
	spec := q.format.Get("json_schema")
	if spec.Kind() != jsonx.Object {
		return fields.WrongKind("response_format.json_schema", "an object", spec)
	}
	r.Format, err = fields.Schema(spec, "response_format.json_schema", "an object")
	return err
}

// readReasoning joins OpenAI's reasoning_effort with Qwen's enable_thinking and thinking_budget.
func (q *request) readReasoning(r *canon.Request) *canon.Error {
	effort, err := fields.OptString(q.effort, "reasoning_effort")
	if err != nil {
		return err
	}
	thinking, err := fields.OptBool(q.enableThinking, "enable_thinking")
	if err != nil {
		return err
	}
	budget, err := fields.OptInt(q.thinkingBudget, "thinking_budget")
	if err != nil {
		return err
	}
	if budget != nil && *budget < 0 {
		return fields.Bad("thinking_budget", "must not be negative")
	}
	if effort == "" && thinking == nil && budget == nil {
		return nil
	}
	r.Reasoning = &canon.Reasoning{BudgetTokens: budget}
	switch effort {
	case "", "minimal", "low", "medium", "high", "xhigh", "max":
		r.Reasoning.Effort = effort
	case "none":
		r.Reasoning.Disabled = true
	default:
		return fields.Bad("reasoning_effort", "must be none, minimal, low, medium, high, xhigh or max, not %q", fields.Clip(effort))
	}
	if thinking != nil {
		r.Reasoning.Disabled = !*thinking
	}
	if r.Reasoning.Disabled {
		*r.Reasoning = canon.Reasoning{Disabled: true}
	}
	return nil
}

// readUser takes user, or the field that succeeds it.
func (q *request) readUser(r *canon.Request) (err *canon.Error) {
	if r.User, err = fields.OptString(q.user, "user"); err != nil {
		return err
	}
	id, err := fields.OptString(q.safetyIdentifier, "safety_identifier")
	if err != nil {
		return err
	}
	if r.User == "" {
		r.User = id
	}
	return nil
}
