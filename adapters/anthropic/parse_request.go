package anthropic

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// maxExtra bounds canon.Request.Extra: the names come from the caller and end in a response header.
const maxExtra = 64

// maxMessages is Anthropic's own limit.
const maxMessages = 100_000

// minBudget is the least thinking budget that Anthropic takes, in tokens.
const minBudget = 1024

// fields holds the top-level members that canon can carry, before they are read.
type fields struct {
	model, maxTokens, messages, system, stopSequences, stream jsonx.Value
	tools, toolChoice, thinking, outputConfig, outputFormat   jsonx.Value
	metadata, temperature, topP, topK, mcpServers             jsonx.Value
}

func (f *fields) slot(name []byte) *jsonx.Value {
	switch string(name) {
	case "model":
		return &f.model
	case "max_tokens":
		return &f.maxTokens
	case "messages":
		return &f.messages
	case "system":
		return &f.system
	case "stop_sequences":
		return &f.stopSequences
	case "stream":
		return &f.stream
	case "tools":
		return &f.tools
	case "tool_choice":
		return &f.toolChoice
	case "thinking":
		return &f.thinking
	case "output_config":
		return &f.outputConfig
	case "output_format":
		return &f.outputFormat
	case "metadata":
		return &f.metadata
	case "temperature":
		return &f.temperature
	case "top_p":
		return &f.topP
	case "top_k":
		return &f.topK
	case "mcp_servers":
		return &f.mcpServers
	}
	return nil
}

// parser reads one request.
type parser struct {
	fields
	req *canon.Request
}

// ParseRequest implements canon.Inbound. What it refuses only because no other dialect has it
// carries the code canon.CodeNotTranslatable.
func (inbound) ParseRequest(body []byte) (*canon.Request, *canon.Error) {
	p := parser{req: &canon.Request{IncludeUsage: true}}
	if err := p.parse(body); err != nil {
		if err.Param != "" {
			err.Message = err.Param + ": " + err.Message
		}
		return nil, err
	}
	return p.req, nil
}

func (p *parser) parse(body []byte) *canon.Error {
	if len(bytes.TrimSpace(body)) == 0 {
		return invalid("", "the request body is empty; send a JSON object with model, max_tokens and messages")
	}
	if err := jsonx.Check(body); err != nil {
		return invalid("", "the request body is not valid JSON: %s", err)
	}
	root := jsonx.Root(body)
	if root.Kind() != jsonx.Object {
		return invalid("", "the request body must be a JSON object, not %s", root.Kind())
	}
	for name, v := range root.Members() {
		slot := p.slot(name)
		if slot == nil {
			if err := p.unknown(name, v); err != nil {
				return err
			}
			continue
		}
		if *slot != nil {
			return duplicate(name)
		}
		*slot = v
	}
	for _, read := range []func(*parser) *canon.Error{
		(*parser).basics, (*parser).sampling, (*parser).readSystem, (*parser).readMessages,
		(*parser).readTools, (*parser).readToolChoice, (*parser).readThinking, (*parser).readOutput,
	} {
		if err := read(p); err != nil {
			return err
		}
	}
	return nil
}

// duplicate refuses a member that comes twice: parsers differ in which of the two they read, so
// that a check made on one could be passed with the other.
func duplicate(name []byte) *canon.Error {
	return invalid(shown(name), "the field is there more than once; send it once")
}

// unknown takes note of a field that canon has no place for.
func (p *parser) unknown(name []byte, v jsonx.Value) *canon.Error {
	if slices.Contains(p.req.Extra, string(name)) {
		return duplicate(name)
	}
	if !v.Missing() {
		p.extra(shown(name))
	}
	return nil
}

func (p *parser) extra(field string) {
	if len(p.req.Extra) < maxExtra && !slices.Contains(p.req.Extra, field) {
		p.req.Extra = append(p.req.Extra, field)
	}
}

// shown is a caller's field name, made fit for a header and a log line.
func shown(name []byte) string {
	const longest = 64
	s := string(name)
	if len(s) <= longest && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0 {
		return s
	}
	s = strconv.QuoteToASCII(s)
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	return s
}

func (p *parser) basics() (err *canon.Error) {
	if p.req.Model, err = text("model", p.model); err != nil {
		return err
	}
	if p.maxTokens == nil {
		return missing("max_tokens")
	}
	if n, ok := p.maxTokens.Int(); ok && n == 0 {
		return untranslatable("max_tokens", "a max_tokens of 0 (filling the prompt cache)")
	}
	if p.req.MaxTokens, err = optionalInt("max_tokens", p.maxTokens, 1); err != nil {
		return err
	}
	if p.req.MaxTokens == nil {
		return wrongKind("max_tokens", "a whole number", p.maxTokens)
	}
	stream, err := optionalBool("stream", p.stream)
	if err != nil {
		return err
	}
	p.req.Stream = stream != nil && *stream

	if !p.metadata.Missing() {
		if err := object("metadata", p.metadata); err != nil {
			return err
		}
		for field, v := range p.metadata.Members() {
			if string(field) != "user_id" {
				p.extra("metadata." + shown(field))
			} else if !v.Missing() {
				if v.Kind() != jsonx.String {
					return wrongKind("metadata.user_id", "a string", v)
				}
				p.req.User = v.Share()
			}
		}
	}
	if p.mcpServers.Kind() == jsonx.Array && p.mcpServers.Len() > 0 {
		return untranslatable("mcp_servers", "a tool server that the provider itself calls")
	}
	return nil
}

func (p *parser) sampling() (err *canon.Error) {
	if p.req.Temperature, err = optionalUnit("temperature", p.temperature); err != nil {
		return err
	}
	if p.req.TopP, err = optionalUnit("top_p", p.topP); err != nil {
		return err
	}
	if p.req.TopK, err = optionalInt("top_k", p.topK, 0); err != nil {
		return err
	}
	if p.stopSequences.Missing() {
		return nil
	}
	if p.stopSequences.Kind() != jsonx.Array {
		return wrongKind("stop_sequences", "an array of strings", p.stopSequences)
	}
	for i, v := range p.stopSequences.Elements() {
		if v.Kind() != jsonx.String {
			return within("stop_sequences", wrongKind(strconv.Itoa(i), "a string", v))
		}
		s := v.Share()
		if strings.TrimSpace(s) == "" {
			return within("stop_sequences", invalid(strconv.Itoa(i), "each stop sequence must contain non-whitespace"))
		}
		p.req.Stop = append(p.req.Stop, s)
	}
	return nil
}

func (p *parser) readThinking() *canon.Error {
	if p.thinking.Missing() {
		return nil
	}
	if err := object("thinking", p.thinking); err != nil {
		return err
	}
	kind, err := text("type", p.thinking.Get("type"))
	if err != nil {
		return within("thinking", err)
	}
	r := &canon.Reasoning{}
	switch kind {
	case "disabled":
		r.Disabled = true
	case "adaptive":
	case "between_tools":
		p.extra("thinking.type")
	case "enabled":
		if r.BudgetTokens, err = optionalInt("budget_tokens", p.thinking.Get("budget_tokens"), minBudget); err != nil {
			return within("thinking", err)
		}
		if r.BudgetTokens == nil {
			return within("thinking", missing("budget_tokens"))
		}
	default:
		return invalid("thinking.type", "must be enabled, adaptive, between_tools or disabled")
	}
	if !p.thinking.Get("display").Missing() {
		p.extra("thinking.display")
	}
	p.req.Reasoning = r
	return nil
}

var efforts = []string{"low", "medium", "high", "xhigh", "max"}

func (p *parser) readOutput() *canon.Error {
	if !p.outputConfig.Missing() {
		if err := object("output_config", p.outputConfig); err != nil {
			return err
		}
		for field, v := range p.outputConfig.Members() {
			var err *canon.Error
			switch string(field) {
			case "effort":
				err = p.readEffort(v)
			case "format":
				err = p.readFormat("format", v)
			default:
				if !v.Missing() {
					p.extra("output_config." + shown(field))
				}
			}
			if err != nil {
				return within("output_config", err)
			}
		}
	}
	return p.readFormat("output_format", p.outputFormat)
}

func (p *parser) readEffort(v jsonx.Value) *canon.Error {
	if v.Missing() {
		return nil
	}
	effort, err := text("effort", v)
	if err != nil {
		return err
	}
	if !slices.Contains(efforts, effort) {
		return invalid("effort", "must be one of %s", strings.Join(efforts, ", "))
	}
	if p.req.Reasoning == nil {
		p.req.Reasoning = &canon.Reasoning{}
	}
	p.req.Reasoning.Effort = effort
	return nil
}

// readFormat reads output_config.format, or output_format as its beta had it.
func (p *parser) readFormat(field string, v jsonx.Value) *canon.Error {
	if v.Missing() {
		return nil
	}
	if err := object(field, v); err != nil {
		return err
	}
	if p.req.Format != nil {
		return invalid(field, "output_format is the old name of output_config.format; send one of them")
	}
	kind, err := text("type", v.Get("type"))
	if err != nil {
		return within(field, err)
	}
	if kind != "json_schema" {
		return within(field, invalid("type", "must be json_schema"))
	}
	schema := v.Get("schema")
	if err := object("schema", schema); err != nil {
		return within(field, err)
	}
	p.req.Format = &canon.Format{Kind: canon.FormatSchema, Schema: json.RawMessage(schema)}
	return nil
}
