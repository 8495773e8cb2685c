package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

// ask is one question in no dialect; each caller says it through its own SDK.
type ask struct {
	model    string
	system   string
	turns    []turn
	tools    []string // names; every tool takes {"city": string}
	choice   string   // "", "none", "required", or the name of a tool
	serial   bool     // no parallel calls
	schema   map[string]any
	stop     []string
	max      int64 // 0: the caller's habit
	cacheAll bool  // mark the system prompt as a prefix to cache
	stream   bool
}

// turn is one message.
type turn struct {
	role    string // user, assistant, tool
	text    string
	image   string // a data URI or a URL
	calls   []call
	results []result
}

type call struct{ id, name, arguments string }

type result struct{ id, text string }

// reply is an answer in no dialect. finish keeps the SDK's own word.
type reply struct {
	model, id, text, finish, stopped string
	calls                            []call
	// input counts every token of the prompt, those of the cache included.
	input, cached, output int64
	// pieces is the number of events of a stream that carried text or arguments.
	pieces int
}

// refused is what an SDK makes of an error answer.
type refused struct {
	status              int
	kind, code, message string
	header              http.Header
}

// caller is a client library of one dialect.
type caller interface {
	dialect() string
	ask(ctx context.Context, a ask) (reply, error)
	models(ctx context.Context) ([]string, error)
	// refusal reads the error; false when it is none of the SDK's error answers.
	refusal(err error) (refused, bool)
}

// callers are the SDKs under test, as an application sets them up: a base URL, a key, nothing else but that they do not
// retry, which would hide failures.
func callers(url, key string) []caller {
	return []caller{newOpenAI(url, key), newAnthropic(url, key)}
}

type openAICaller struct{ client openai.Client }

func newOpenAI(url, key string, opts ...openaioption.RequestOption) openAICaller {
	return openAICaller{openai.NewClient(append([]openaioption.RequestOption{
		openaioption.WithBaseURL(url + "/v1"), openaioption.WithAPIKey(key), openaioption.WithMaxRetries(0)}, opts...)...)}
}

func (openAICaller) dialect() string { return "openai" }

// citySchema is the parameters of every tool.
var citySchema = map[string]any{
	"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}, "required": []string{"city"},
}

func (openAICaller) params(a ask) openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{Model: a.model}
	if a.system != "" {
		part := openai.ChatCompletionContentPartTextParam{Text: a.system}
		if a.cacheAll {
			part.SetExtraFields(map[string]any{"cache_control": map[string]string{"type": "ephemeral"}})
			p.Messages = append(p.Messages, openai.SystemMessage([]openai.ChatCompletionContentPartTextParam{part}))
		} else {
			p.Messages = append(p.Messages, openai.SystemMessage(a.system))
		}
	}
	for _, t := range a.turns {
		p.Messages = append(p.Messages, openAITurn(t)...)
	}
	for _, name := range a.tools {
		p.Tools = append(p.Tools, openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name: name, Description: openai.String("About a city."), Parameters: citySchema}))
	}
	switch a.choice {
	case "":
	case "none", "required":
		p.ToolChoice.OfAuto = openai.String(a.choice)
	default:
		p.ToolChoice = openai.ToolChoiceOptionFunctionToolChoice(openai.ChatCompletionNamedToolChoiceFunctionParam{Name: a.choice})
	}
	if a.serial {
		p.ParallelToolCalls = openai.Bool(false)
	}
	if a.schema != nil {
		p.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name: "place", Strict: openai.Bool(true), Schema: a.schema}}
	}
	if a.stop != nil {
		p.Stop.OfStringArray = a.stop
	}
	if a.max > 0 {
		p.MaxCompletionTokens = openai.Int(a.max)
	}
	return p
}

func openAITurn(t turn) (out []openai.ChatCompletionMessageParamUnion) {
	switch t.role {
	case "tool":
		for _, r := range t.results {
			out = append(out, openai.ToolMessage(r.text, r.id))
		}
	case "assistant":
		m := openai.ChatCompletionAssistantMessageParam{}
		if t.text != "" {
			m.Content.OfString = openai.String(t.text)
		}
		for _, c := range t.calls {
			m.ToolCalls = append(m.ToolCalls, openai.ChatCompletionMessageToolCallUnionParam{OfFunction: &openai.ChatCompletionMessageFunctionToolCallParam{
				ID: c.id, Function: openai.ChatCompletionMessageFunctionToolCallFunctionParam{Name: c.name, Arguments: c.arguments}}})
		}
		out = append(out, openai.ChatCompletionMessageParamUnion{OfAssistant: &m})
	default:
		if t.image == "" {
			return append(out, openai.UserMessage(t.text))
		}
		out = append(out, openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{
			openai.TextContentPart(t.text), openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: t.image})}))
	}
	return out
}

func (o openAICaller) ask(ctx context.Context, a ask) (reply, error) {
	p := o.params(a)
	if !a.stream {
		c, err := o.client.Chat.Completions.New(ctx, p)
		if err != nil {
			return reply{}, err
		}
		return openAIReply(c, 0)
	}
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	s := o.client.Chat.Completions.NewStreaming(ctx, p)
	defer s.Close()
	var acc openai.ChatCompletionAccumulator
	pieces := 0
	for s.Next() {
		chunk := s.Current()
		if !acc.AddChunk(chunk) {
			return reply{}, fmt.Errorf("the accumulator refuses %s", chunk.RawJSON())
		}
		for _, c := range chunk.Choices {
			if c.Delta.Content != "" || len(c.Delta.ToolCalls) > 0 {
				pieces++
			}
		}
	}
	r, err := openAIReply(&acc.ChatCompletion, pieces)
	return r, errors.Join(s.Err(), err)
}

func openAIReply(c *openai.ChatCompletion, pieces int) (reply, error) {
	r := reply{model: c.Model, id: c.ID, pieces: pieces,
		input: c.Usage.PromptTokens, cached: c.Usage.PromptTokensDetails.CachedTokens, output: c.Usage.CompletionTokens}
	if len(c.Choices) != 1 {
		return r, fmt.Errorf("%d choices", len(c.Choices))
	}
	m := c.Choices[0]
	r.text, r.finish = m.Message.Content, m.FinishReason
	for _, t := range m.Message.ToolCalls {
		r.calls = append(r.calls, call{t.ID, t.Function.Name, t.Function.Arguments})
	}
	return r, nil
}

func (o openAICaller) models(ctx context.Context) (out []string, _ error) {
	pages := o.client.Models.ListAutoPaging(ctx)
	for pages.Next() {
		out = append(out, pages.Current().ID)
	}
	return out, pages.Err()
}

func (openAICaller) refusal(err error) (refused, bool) {
	var e *openai.Error
	if !errors.As(err, &e) {
		return refused{}, false
	}
	return refused{e.StatusCode, e.Type, e.Code, e.Message, e.Response.Header}, true
}

type anthropicCaller struct{ client anthropic.Client }

func newAnthropic(url, key string, opts ...anthropicoption.RequestOption) anthropicCaller {
	return anthropicCaller{anthropic.NewClient(append([]anthropicoption.RequestOption{
		anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey(key), anthropicoption.WithMaxRetries(0)}, opts...)...)}
}

func (anthropicCaller) dialect() string { return "anthropic" }

func (anthropicCaller) params(a ask) anthropic.MessageNewParams {
	p := anthropic.MessageNewParams{Model: a.model, MaxTokens: 4096, StopSequences: a.stop}
	if a.max > 0 {
		p.MaxTokens = a.max
	}
	if a.system != "" {
		block := anthropic.TextBlockParam{Text: a.system}
		if a.cacheAll {
			block.CacheControl = anthropic.NewCacheControlEphemeralParam()
		}
		p.System = []anthropic.TextBlockParam{block}
	}
	for _, t := range a.turns {
		p.Messages = append(p.Messages, anthropicTurn(t))
	}
	for _, name := range a.tools {
		p.Tools = append(p.Tools, anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{
			Name: name, Description: anthropic.String("About a city."),
			InputSchema: anthropic.ToolInputSchemaParam{Properties: citySchema["properties"], Required: []string{"city"}}}})
	}
	switch a.choice {
	case "":
		if a.serial {
			p.ToolChoice.OfAuto = &anthropic.ToolChoiceAutoParam{DisableParallelToolUse: anthropic.Bool(true)}
		}
	case "none":
		p.ToolChoice.OfNone = &anthropic.ToolChoiceNoneParam{}
	case "required":
		p.ToolChoice.OfAny = &anthropic.ToolChoiceAnyParam{}
	default:
		p.ToolChoice.OfTool = &anthropic.ToolChoiceToolParam{Name: a.choice}
	}
	if a.schema != nil {
		p.OutputConfig.Format = anthropic.JSONOutputFormatParam{Schema: a.schema}
	}
	return p
}

func anthropicTurn(t turn) anthropic.MessageParam {
	var blocks []anthropic.ContentBlockParamUnion
	for _, r := range t.results {
		blocks = append(blocks, anthropic.NewToolResultBlock(r.id, r.text, false))
	}
	if t.image != "" {
		head, data, inline := strings.Cut(strings.TrimPrefix(t.image, "data:"), ";base64,")
		if inline {
			blocks = append(blocks, anthropic.NewImageBlockBase64(head, data))
		} else {
			blocks = append(blocks, anthropic.NewImageBlock(anthropic.URLImageSourceParam{URL: t.image}))
		}
	}
	if t.text != "" {
		blocks = append(blocks, anthropic.NewTextBlock(t.text))
	}
	for _, c := range t.calls {
		blocks = append(blocks, anthropic.NewToolUseBlock(c.id, json.RawMessage(c.arguments), c.name))
	}
	if t.role == "assistant" {
		return anthropic.NewAssistantMessage(blocks...)
	}
	return anthropic.NewUserMessage(blocks...)
}

func (o anthropicCaller) ask(ctx context.Context, a ask) (reply, error) {
	p := o.params(a)
	if !a.stream {
		m, err := o.client.Messages.New(ctx, p)
		if err != nil {
			return reply{}, err
		}
		return anthropicReply(m, 0), nil
	}
	s := o.client.Messages.NewStreaming(ctx, p)
	defer s.Close()
	var acc anthropic.Message
	pieces, ended := 0, false
	for s.Next() {
		e := s.Current()
		if err := acc.Accumulate(e); err != nil {
			return reply{}, fmt.Errorf("the accumulator refuses %s: %w", e.RawJSON(), err)
		}
		pieces += btoi(e.Type == "content_block_delta")
		ended = ended || e.Type == "message_stop"
	}
	r := anthropicReply(&acc, pieces)
	if s.Err() == nil && !ended {
		return r, errors.New("the stream ended without message_stop")
	}
	return r, s.Err()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func anthropicReply(m *anthropic.Message, pieces int) reply {
	u := m.Usage
	r := reply{model: string(m.Model), id: m.ID, finish: string(m.StopReason), stopped: m.StopSequence, pieces: pieces,
		input: u.InputTokens + u.CacheReadInputTokens + u.CacheCreationInputTokens, cached: u.CacheReadInputTokens, output: u.OutputTokens}
	for _, c := range m.Content {
		switch c.Type {
		case "text":
			r.text += c.Text
		case "tool_use":
			r.calls = append(r.calls, call{c.ID, c.Name, string(c.Input)})
		}
	}
	return r
}

func (o anthropicCaller) models(ctx context.Context) (out []string, _ error) {
	pages := o.client.Models.ListAutoPaging(ctx, anthropic.ModelListParams{})
	for pages.Next() {
		out = append(out, pages.Current().ID)
	}
	return out, pages.Err()
}

func (anthropicCaller) refusal(err error) (refused, bool) {
	var e *anthropic.Error
	if !errors.As(err, &e) {
		return refused{}, false
	}
	return refused{e.StatusCode, string(e.Type()), "", e.Message, e.Response.Header}, true
}

// mustAsk fails the test when the question is not answered.
func mustAsk(t *testing.T, c caller, a ask) reply {
	t.Helper()
	r, err := c.ask(t.Context(), a)
	if err != nil {
		t.Fatalf("%s caller, model %s: %v", c.dialect(), a.model, err)
	}
	return r
}

// mustRefuse fails the test unless the question is answered with an error that the SDK understands.
func mustRefuse(t *testing.T, c caller, a ask, status int) refused {
	t.Helper()
	_, err := c.ask(t.Context(), a)
	if err == nil {
		t.Fatalf("%s caller, model %s: an answer instead of status %d", c.dialect(), a.model, status)
	}
	e, ok := c.refusal(err)
	if !ok {
		t.Fatalf("%s caller, model %s: %v is no error of the SDK", c.dialect(), a.model, err)
	}
	if e.status != status || e.message == "" {
		t.Fatalf("%s caller, model %s: status %d, want %d; message %q", c.dialect(), a.model, e.status, status, e.message)
	}
	return e
}

// user is a conversation of one message.
func user(text string) []turn { return []turn{{role: "user", text: text}} }
