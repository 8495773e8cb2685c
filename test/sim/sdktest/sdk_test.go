package sdktest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"

	"github.com/weir-dev/weir/test/sim"
)

const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

// start runs a simulator that never waits and cuts its events into pieces.
func start(t *testing.T, d sim.Dialect) (*sim.Server, string) {
	t.Helper()
	s, err := sim.New(sim.Options{Dialect: d, Key: "secret", Faults: sim.Faults{Chunking: sim.Split},
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h.URL
}

func openAI(url string) openai.Client {
	return openai.NewClient(openaioption.WithBaseURL(url), openaioption.WithAPIKey("secret"), openaioption.WithMaxRetries(0))
}

var weather = openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
	Name: "weather", Description: openai.String("Weather of a city"),
	Parameters: shared.FunctionParameters{"type": "object", "required": []string{"city"},
		"properties": map[string]any{"city": map[string]any{"type": "string"}}},
})

// TestOpenAI runs against OpenAI itself and against Alibaba's compatible mode.
func TestOpenAI(t *testing.T) {
	for _, c := range []struct {
		name, path, model string
		dialect           sim.Dialect
	}{
		{"openai", "/v1", "gpt-4o", sim.OpenAI},
		{"compatible mode", "/compatible-mode/v1", "qwen-plus", sim.DashScope},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := start(t, c.dialect)
			client := openAI(url + c.path)
			ctx := t.Context()
			ask := func(m ...openai.ChatCompletionMessageParamUnion) openai.ChatCompletionNewParams {
				return openai.ChatCompletionNewParams{Model: c.model, Messages: m}
			}

			plain, err := client.Chat.Completions.New(ctx, ask(openai.SystemMessage("be brief"), openai.UserMessage("Tell me 30 words.")))
			if err != nil {
				t.Fatal(err)
			}
			if plain.Choices[0].FinishReason != "stop" || plain.Usage.CompletionTokens != 30 {
				t.Errorf("finish %q, %d tokens", plain.Choices[0].FinishReason, plain.Usage.CompletionTokens)
			}

			streamed := ask(openai.SystemMessage("be brief"), openai.UserMessage("Tell me 30 words."))
			streamed.StreamOptions.IncludeUsage = openai.Bool(true)
			stream := client.Chat.Completions.NewStreaming(ctx, streamed)
			var acc openai.ChatCompletionAccumulator
			for stream.Next() {
				if !acc.AddChunk(stream.Current()) {
					t.Fatalf("the accumulator refuses %s", stream.Current().RawJSON())
				}
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			if got, want := acc.Choices[0].Message.Content, plain.Choices[0].Message.Content; got != want {
				t.Errorf("streamed text differs from the plain one:\n%q\n%q", got, want)
			}
			if acc.Usage.TotalTokens != plain.Usage.TotalTokens {
				t.Errorf("streamed usage %d, plain %d", acc.Usage.TotalTokens, plain.Usage.TotalTokens)
			}

			first := openai.UserMessage("Please call the tool.")
			p := ask(first)
			p.Tools = []openai.ChatCompletionToolUnionParam{weather}
			called, err := client.Chat.Completions.New(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			calls := called.Choices[0].Message.ToolCalls
			if len(calls) != 1 || calls[0].Function.Name != "weather" {
				t.Fatalf("calls: %+v", calls)
			}
			var args struct{ City string }
			if err := json.Unmarshal([]byte(calls[0].Function.Arguments), &args); err != nil || args.City == "" {
				t.Errorf("arguments %q: %v", calls[0].Function.Arguments, err)
			}
			stream = client.Chat.Completions.NewStreaming(ctx, p)
			acc = openai.ChatCompletionAccumulator{}
			for stream.Next() {
				acc.AddChunk(stream.Current())
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			if got := acc.Choices[0].Message.ToolCalls; len(got) != 1 || got[0].Function.Arguments != calls[0].Function.Arguments {
				t.Errorf("streamed calls: %+v", got)
			}
			p.Messages = append(p.Messages, called.Choices[0].Message.ToParam(), openai.ToolMessage("rain, 7 degrees", calls[0].ID))
			told, err := client.Chat.Completions.New(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(told.Choices[0].Message.Content, "rain, 7 degrees") {
				t.Errorf("the answer does not mention the result: %q", told.Choices[0].Message.Content)
			}

			seen, err := client.Chat.Completions.New(ctx, ask(openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{
				openai.TextContentPart("What is this?"),
				openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "data:image/png;base64," + png}),
			})))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(seen.Choices[0].Message.Content, "1 image: image/png of 70 bytes") {
				t.Errorf("the answer does not describe the image: %q", seen.Choices[0].Message.Content)
			}

			_, err = client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "nope", Messages: p.Messages[:1]})
			var fail *openai.Error
			if !errors.As(err, &fail) || fail.StatusCode != 404 || fail.Code != "model_not_found" {
				t.Errorf("unknown model: %v", err)
			}
		})
	}
}

func TestOpenAIStreamErrors(t *testing.T) {
	s, url := start(t, sim.OpenAI)
	client := openAI(url + "/v1")
	for _, kind := range []sim.Kind{sim.StreamError, sim.Disconnect} {
		if err := s.SetFaults(sim.Faults{Rules: []sim.Rule{{Kind: kind, AfterEvents: 4}}}); err != nil {
			t.Fatal(err)
		}
		stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{Model: "gpt-4o",
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}})
		n := 0
		for stream.Next() {
			n++
		}
		if stream.Err() == nil || n != 4 {
			t.Errorf("%s: %d chunks, error %v", kind, n, stream.Err())
		}
	}
}

func TestOpenAIOthers(t *testing.T) {
	_, url := start(t, sim.OpenAI)
	client := openAI(url + "/v1")
	models, err := client.Models.List(t.Context())
	if err != nil || len(models.Data) == 0 {
		t.Fatalf("models: %v", err)
	}
	emb, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small",
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}})
	if err != nil || len(emb.Data) != 2 || len(emb.Data[0].Embedding) != 1536 {
		t.Fatalf("embeddings: %v", err)
	}

	p := responses.ResponseNewParams{Model: "gpt-5", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Call the tool.")},
		Tools: []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{Name: "weather",
			Parameters: map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}}}}}}
	plain, err := client.Responses.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	last := plain.Output[len(plain.Output)-1]
	if plain.Status != "completed" || last.Type != "function_call" {
		t.Errorf("status %q, output %s", plain.Status, plain.RawJSON())
	}
	stream := client.Responses.NewStreaming(t.Context(), p)
	var done *responses.Response
	var args strings.Builder
	for stream.Next() {
		switch e := stream.Current(); e.Type {
		case "response.function_call_arguments.delta":
			args.WriteString(e.Delta)
		case "response.completed":
			done = &e.Response
		}
	}
	if err := stream.Err(); err != nil || done == nil {
		t.Fatalf("no completed event: %v", err)
	}
	if args.String() != last.AsFunctionCall().Arguments || done.Usage.TotalTokens != plain.Usage.TotalTokens {
		t.Errorf("streamed arguments %q, usage %d; plain %q, %d", args.String(), done.Usage.TotalTokens, last.AsFunctionCall().Arguments, plain.Usage.TotalTokens)
	}
}

func TestAnthropic(t *testing.T) {
	s, url := start(t, sim.Anthropic)
	client := anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("secret"), anthropicoption.WithMaxRetries(0))
	ctx := t.Context()
	ask := func(m ...anthropic.MessageParam) anthropic.MessageNewParams {
		return anthropic.MessageNewParams{Model: "claude-sonnet-4-5", MaxTokens: 2048, Messages: m}
	}
	text := func(m *anthropic.Message) string {
		var b strings.Builder
		for _, c := range m.Content {
			b.WriteString(c.Text)
		}
		return b.String()
	}
	streamed := func(p anthropic.MessageNewParams) *anthropic.Message {
		t.Helper()
		stream := client.Messages.NewStreaming(ctx, p)
		var acc anthropic.Message
		for stream.Next() {
			if err := acc.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		return &acc
	}

	p := ask(anthropic.NewUserMessage(anthropic.NewTextBlock("Tell me 30 words.")))
	plain, err := client.Messages.New(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if plain.StopReason != "end_turn" || plain.Usage.OutputTokens != 30 {
		t.Errorf("stop %q, %d tokens", plain.StopReason, plain.Usage.OutputTokens)
	}
	if got := streamed(p); text(got) != text(plain) || got.Usage.OutputTokens != 30 {
		t.Errorf("streamed %q, plain %q", text(got), text(plain))
	}

	tool := anthropic.ToolUnionParamOfTool(anthropic.ToolInputSchemaParam{
		Properties: map[string]any{"city": map[string]any{"type": "string"}}, Required: []string{"city"}}, "weather")
	p = ask(anthropic.NewUserMessage(anthropic.NewTextBlock("Please call the tool.")))
	p.Tools = []anthropic.ToolUnionParam{tool}
	for name, m := range map[string]func() *anthropic.Message{
		"plain": func() *anthropic.Message {
			m, err := client.Messages.New(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			return m
		},
		"streamed": func() *anthropic.Message { return streamed(p) },
	} {
		called := m()
		last := called.Content[len(called.Content)-1]
		if called.StopReason != "tool_use" || last.Name != "weather" {
			t.Fatalf("%s: %s", name, called.RawJSON())
		}
		var args struct{ City string }
		if err := json.Unmarshal(last.Input, &args); err != nil || args.City == "" {
			t.Errorf("%s: input %s: %v", name, last.Input, err)
		}
		q := p
		q.Messages = append(q.Messages[:1:1], called.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(last.ID, "rain, 7 degrees", false)))
		told, err := client.Messages.New(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text(told), "rain, 7 degrees") {
			t.Errorf("%s: the answer does not mention the result: %q", name, text(told))
		}
	}

	seen, err := client.Messages.New(ctx, ask(anthropic.NewUserMessage(anthropic.NewImageBlockBase64("image/png", png), anthropic.NewTextBlock("What is this?"))))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text(seen), "1 image: image/png of 70 bytes") {
		t.Errorf("the answer does not describe the image: %q", text(seen))
	}

	_, err = client.Messages.New(ctx, anthropic.MessageNewParams{Model: "nope", MaxTokens: 5, Messages: p.Messages})
	var fail *anthropic.Error
	if !errors.As(err, &fail) || fail.StatusCode != 404 {
		t.Errorf("unknown model: %v", err)
	}
	for _, kind := range []sim.Kind{sim.StreamError, sim.Disconnect} {
		if err := s.SetFaults(sim.Faults{Rules: []sim.Rule{{Kind: kind, AfterEvents: 6}}}); err != nil {
			t.Fatal(err)
		}
		stream := client.Messages.NewStreaming(ctx, ask(anthropic.NewUserMessage(anthropic.NewTextBlock("hi"))))
		for stream.Next() {
		}
		if stream.Err() == nil {
			t.Errorf("%s: no error", kind)
		}
	}
	for _, r := range s.Requests() {
		if len(r.Credentials) != 1 || r.Credentials[0] != sim.Fingerprint("secret") {
			t.Errorf("credentials of %s: %v", r.Path, r.Credentials)
		}
	}
}
