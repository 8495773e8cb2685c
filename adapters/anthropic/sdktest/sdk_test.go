// Package sdktest holds Anthropic's own Go SDK against what adapters/anthropic prints and reads. It
// is a folder of its own because the SDK takes minutes to build the first time.
package sdktest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"

	"github.com/weir-dev/weir/adapters/anthropic"
	"github.com/weir-dev/weir/adapters/canon"
)

var reply = canon.Reply{Model: "alias", ID: "r1"}

// serve answers every request with body, and hands the request's body to got.
func serve(t *testing.T, status int, contentType string, body []byte, got *[]byte) sdk.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got != nil {
			*got, _ = io.ReadAll(r.Body)
		}
		w.Header().Set("content-type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	t.Cleanup(srv.Close)
	return sdk.NewClient(option.WithBaseURL(srv.URL), option.WithAPIKey("k"), option.WithMaxRetries(0))
}

func params() sdk.MessageNewParams {
	return sdk.MessageNewParams{
		Model:         "alias",
		MaxTokens:     100,
		System:        []sdk.TextBlockParam{{Text: "Be brief.", CacheControl: sdk.NewCacheControlEphemeralParam()}},
		StopSequences: []string{"END"},
		Messages: []sdk.MessageParam{
			sdk.NewUserMessage(sdk.NewTextBlock("hi"), sdk.NewImageBlockBase64("image/png", "QUJD")),
			sdk.NewAssistantMessage(sdk.NewToolUseBlock("toolu_1", map[string]any{"city": "Bonn"}, "weather")),
			sdk.NewUserMessage(sdk.NewToolResultBlock("toolu_1", "sunny", false)),
		},
		Tools: []sdk.ToolUnionParam{{OfTool: &sdk.ToolParam{Name: "weather",
			InputSchema: sdk.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}}}}},
		ToolChoice: sdk.ToolChoiceUnionParam{OfAny: &sdk.ToolChoiceAnyParam{}},
	}
}

func TestWholeAnswer(t *testing.T) {
	in := anthropic.Dialect().In
	body := in.AppendResponse(nil, &canon.Response{
		Parts: []canon.Part{
			{Kind: canon.PartReasoning, Text: "hm", Signature: "s", Origin: "anthropic"},
			{Text: "Hello \"you\" 🌍"},
			{Kind: canon.PartToolCall, Call: &canon.ToolCall{Name: "weather", Arguments: `{"city":"Bonn"}`}},
		},
		Finish: canon.FinishToolCalls,
		Usage:  &canon.Usage{Input: 10, CacheRead: 4, CacheWrite: 1, Output: 7, Reasoning: 2},
	}, reply)
	var sent []byte
	client := serve(t, 200, "application/json", body, &sent)
	m, err := client.Messages.New(context.Background(), params())
	if err != nil {
		t.Fatal(err)
	}
	checkMessage(t, m)

	req, bad := in.ParseRequest(sent)
	if bad != nil {
		t.Fatalf("what the SDK sends is refused: %v\n%s", bad, sent)
	}
	var roles []string
	for _, m := range req.Messages {
		roles = append(roles, string(m.Role))
	}
	if got := strings.Join(roles, " "); got != "system user assistant tool" {
		t.Errorf("roles %s", got)
	}
	if req.ToolChoice == nil || req.ToolChoice.Mode != canon.ChoiceRequired || len(req.Tools) != 1 || req.Stop[0] != "END" || !req.Messages[0].Parts[0].CacheMark {
		t.Errorf("request %+v", req)
	}
}

func checkMessage(t *testing.T, m *sdk.Message) {
	t.Helper()
	if m.ID != "msg_r1" || m.Model != "alias" || m.StopReason != sdk.StopReasonToolUse || len(m.Content) != 3 {
		t.Fatalf("message %s", m.RawJSON())
	}
	if got := m.Content[0].AsThinking().Thinking; got != "hm" {
		t.Errorf("thinking %q", got)
	}
	if got := m.Content[1].AsText().Text; got != "Hello \"you\" 🌍" {
		t.Errorf("text %q", got)
	}
	call := m.Content[2].AsToolUse()
	if call.ID != "toolu_r1_0" || call.Name != "weather" || string(call.Input) != `{"city":"Bonn"}` {
		t.Errorf("call %+v", call)
	}
	if u := m.Usage; u.InputTokens != 5 || u.CacheReadInputTokens != 4 || u.CacheCreationInputTokens != 1 || u.OutputTokens != 7 {
		t.Errorf("usage %+v", u)
	}
}

func TestStream(t *testing.T) {
	enc := anthropic.Dialect().In.NewStreamEncoder(reply)
	var body []byte
	for _, ev := range []canon.Event{
		{Kind: canon.EventPing},
		{Kind: canon.EventStart},
		{Kind: canon.EventReasoning, Text: "hm", Origin: "anthropic"},
		{Kind: canon.EventReasoning, Signature: "s", Origin: "anthropic"},
		{Kind: canon.EventText, Text: "Hello \"you\""},
		{Kind: canon.EventText, Text: " 🌍"},
		{Kind: canon.EventPing},
		{Kind: canon.EventToolStart, Name: "weather"},
		{Kind: canon.EventToolDelta, Text: `{"city":`},
		{Kind: canon.EventToolDelta, Text: `"Bonn"}`},
		{Kind: canon.EventFinish, Finish: canon.FinishToolCalls},
		{Kind: canon.EventUsage, Usage: &canon.Usage{Input: 10, CacheRead: 4, CacheWrite: 1, Output: 7}},
	} {
		body = enc.Append(body, &ev)
	}
	body = enc.End(body)
	client := serve(t, 200, "text/event-stream", body, nil)
	stream := client.Messages.NewStreaming(context.Background(), params())
	var m sdk.Message
	for stream.Next() {
		if err := m.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	checkMessage(t, &m)
}

func TestErrors(t *testing.T) {
	in := anthropic.Dialect().In
	fault := &canon.Error{Kind: canon.ErrRateLimit, Message: "slow down"}
	client := serve(t, fault.HTTPStatus(), "application/json", in.AppendError(nil, fault, "req_1"), nil)
	_, err := client.Messages.New(context.Background(), params())
	var api *sdk.Error
	if !errors.As(err, &api) || api.StatusCode != 429 || !strings.Contains(api.RawJSON(), "slow down") {
		t.Errorf("got %v", err)
	}

	enc := in.NewStreamEncoder(reply)
	body := enc.Append(nil, &canon.Event{Kind: canon.EventText, Text: "half"})
	body = enc.Append(body, &canon.Event{Kind: canon.EventError, Err: fault})
	client = serve(t, 200, "text/event-stream", enc.End(body), nil)
	stream := client.Messages.NewStreaming(context.Background(), params())
	n := 0
	for stream.Next() {
		n++
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "slow down") || n == 0 {
		t.Errorf("after %d events got %v", n, err)
	}
}

func TestModels(t *testing.T) {
	body := anthropic.Dialect().In.AppendModels(nil, []canon.Model{{ID: "a", Created: 1700000000}, {ID: "b"}})
	client := serve(t, 200, "application/json", body, nil)
	page, err := client.Models.List(context.Background(), sdk.ModelListParams{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Data) != 2 || page.Data[0].ID != "a" || page.Data[0].CreatedAt.Unix() != 1700000000 || page.HasMore {
		t.Errorf("page %s", page.RawJSON())
	}
}
