// Package sdktest holds OpenAI's own Go SDK against what adapters/responses reads and prints. It is a folder of its own because the SDK
// takes minutes to build the first time.
package sdktest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/conversations"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	sdkresponses "github.com/openai/openai-go/v3/responses"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/responses"
)

var reply = canon.Reply{Model: "alias", ID: "r1", Created: 1700000000}

// serve answers every request with what answer makes of it.
func serve(t *testing.T, contentType string, answer func(r *http.Request, body []byte) []byte) sdk.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("content-type", contentType)
		_, _ = w.Write(answer(r, body))
	}))
	t.Cleanup(srv.Close)
	return sdk.NewClient(option.WithBaseURL(srv.URL+"/v1"), option.WithAPIKey("k"), option.WithMaxRetries(0))
}

// params is a request with about everything that a client of a chat model sends.
func params() sdkresponses.ResponseNewParams {
	return sdkresponses.ResponseNewParams{
		Model:        "alias",
		Instructions: sdk.String("Be brief."),
		Input: sdkresponses.ResponseNewParamsInputUnion{OfInputItemList: sdkresponses.ResponseInputParam{
			sdkresponses.ResponseInputItemParamOfMessage("hi", sdkresponses.EasyInputMessageRoleUser),
			sdkresponses.ResponseInputItemParamOfInputMessage(sdkresponses.ResponseInputMessageContentListParam{
				sdkresponses.ResponseInputContentParamOfInputText("and this?"),
				{OfInputImage: &sdkresponses.ResponseInputImageParam{ImageURL: sdk.String("data:image/png;base64,QUJD"), Detail: "low"}},
			}, "user"),
			sdkresponses.ResponseInputItemParamOfFunctionCall(`{"city":"Bonn"}`, "c1", "weather"),
			{OfFunctionCallOutput: &sdkresponses.ResponseInputItemFunctionCallOutputParam{CallID: sdk.String("c1"),
				Output: sdkresponses.ResponseInputItemFunctionCallOutputOutputUnionParam{OfString: sdk.String("sunny")}}},
		}},
		Tools: []sdkresponses.ToolUnionParam{sdkresponses.ToolParamOfFunction("weather", map[string]any{"type": "object"}, false)},
		ToolChoice: sdkresponses.ResponseNewParamsToolChoiceUnion{OfFunctionTool: &sdkresponses.ToolChoiceFunctionParam{
			Name: "weather",
		}},
		Store:    sdk.Bool(false),
		Metadata: map[string]string{"a": "b"},
	}
}

var answer = &canon.Response{
	Parts: []canon.Part{
		{Kind: canon.PartReasoning, Text: "hm"},
		{Text: "Hello \"you\" 🌍"},
		{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "c2", Name: "weather", Arguments: `{"city":"Köln"}`}},
	},
	Finish: canon.FinishToolCalls, Usage: &canon.Usage{Input: 10, CacheRead: 4, Output: 5, Reasoning: 2},
}

// check holds a response as the SDK reads it to the answer.
func check(t *testing.T, r *sdkresponses.Response) {
	t.Helper()
	if r.ID != "resp_r1" || r.Status != "completed" || r.Model != "alias" || r.OutputText() != "Hello \"you\" 🌍" || r.CreatedAt != 1700000000 {
		t.Errorf("%s %s %s %q", r.ID, r.Status, r.Model, r.OutputText())
	}
	if len(r.Output) != 3 || r.Output[0].AsReasoning().Content[0].Text != "hm" {
		t.Fatalf("output %s", r.RawJSON())
	}
	call := r.Output[2].AsFunctionCall()
	if call.CallID != "c2" || call.Name != "weather" || call.Arguments != `{"city":"Köln"}` || call.Status != "completed" {
		t.Errorf("call %s", call.RawJSON())
	}
	if r.Usage.InputTokens != 10 || r.Usage.InputTokensDetails.CachedTokens != 4 || r.Usage.OutputTokensDetails.ReasoningTokens != 2 || r.Usage.TotalTokens != 15 {
		t.Errorf("usage %s", r.Usage.RawJSON())
	}
	if r.Metadata["a"] != "b" || r.Instructions.OfString != "Be brief." || r.Tools[0].AsFunction().Name != "weather" || r.ToolChoice.AsFunctionTool().Name != "weather" {
		t.Errorf("what it repeats: %s", r.RawJSON())
	}
	// All that the SDK's type requires is there.
	for name, f := range map[string]interface{ Valid() bool }{
		"id": r.JSON.ID, "created_at": r.JSON.CreatedAt, "metadata": r.JSON.Metadata, "model": r.JSON.Model, "object": r.JSON.Object,
		"output": r.JSON.Output, "parallel_tool_calls": r.JSON.ParallelToolCalls, "tool_choice": r.JSON.ToolChoice, "tools": r.JSON.Tools,
	} {
		if !f.Valid() {
			t.Errorf("%s is missing in %s", name, r.RawJSON())
		}
	}
}

func TestWholeAnswer(t *testing.T) {
	c := serve(t, "application/json", func(_ *http.Request, body []byte) []byte {
		r, err := responses.Parse(body)
		if err != nil {
			t.Errorf("%v in %s", err, body)
			return responses.In(nil).AppendError(nil, err, "")
		}
		chat, err := r.Compose(nil)
		if err != nil || len(chat.Messages) != 5 || chat.Messages[2].Parts[1].Image == nil || chat.Messages[4].Parts[0].Result.Name != "weather" || chat.ToolChoice.Name != "weather" {
			t.Errorf("%+v %v", chat, err)
		}
		return responses.In(r).AppendResponse(nil, answer, reply)
	})
	r, err := c.Responses.New(context.Background(), params())
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
}

func TestStream(t *testing.T) {
	c := serve(t, "text/event-stream", func(_ *http.Request, body []byte) []byte {
		r, err := responses.Parse(body)
		if err != nil || !r.Stream() {
			t.Fatalf("%v", err)
		}
		e := responses.In(r).NewStreamEncoder(reply)
		var out []byte
		answer.Events(func(ev *canon.Event) { out = e.Append(out, ev) })
		return e.End(out)
	})
	s := c.Responses.NewStreaming(context.Background(), params())
	var text, args, reasoning strings.Builder
	var last *sdkresponses.Response
	n := int64(0)
	for s.Next() {
		ev := s.Current()
		if ev.SequenceNumber != n {
			t.Errorf("event %d has the number %d", n, ev.SequenceNumber)
		}
		n++
		switch ev := ev.AsAny().(type) {
		case sdkresponses.ResponseTextDeltaEvent:
			text.WriteString(ev.Delta)
		case sdkresponses.ResponseFunctionCallArgumentsDeltaEvent:
			args.WriteString(ev.Delta)
		case sdkresponses.ResponseReasoningTextDeltaEvent:
			reasoning.WriteString(ev.Delta)
		case sdkresponses.ResponseCompletedEvent:
			last = &ev.Response
		case nil:
			t.Errorf("the SDK knows no event %s", s.Current().RawJSON())
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if text.String() != "Hello \"you\" 🌍" || args.String() != `{"city":"Köln"}` || reasoning.String() != "hm" || last == nil {
		t.Fatalf("%q %q %q %v", &text, &args, &reasoning, last)
	}
	check(t, last)
}

// TestBrokenStream: an answer that broke off does not look finished.
func TestBrokenStream(t *testing.T) {
	c := serve(t, "text/event-stream", func(*http.Request, []byte) []byte {
		e := responses.In(nil).NewStreamEncoder(reply)
		out := e.Append(nil, &canon.Event{Kind: canon.EventText, Text: "Hel"})
		return e.End(e.Append(out, &canon.Event{Kind: canon.EventError, Err: &canon.Error{Kind: canon.ErrRateLimit, Message: "slow down"}}))
	})
	s := c.Responses.NewStreaming(context.Background(), params())
	var failed *sdkresponses.Response
	for s.Next() {
		switch ev := s.Current().AsAny().(type) {
		case sdkresponses.ResponseFailedEvent:
			failed = &ev.Response
		case sdkresponses.ResponseCompletedEvent:
			t.Error("it is completed")
		}
	}
	if s.Err() == nil && (failed == nil || failed.Error.Code != "rate_limit_exceeded" || failed.Error.Message != "slow down" || failed.Status != "failed") {
		t.Errorf("%v", failed)
	}
	if s.Err() != nil && !strings.Contains(s.Err().Error(), "slow down") {
		t.Error(s.Err())
	}
}

// TestPages: the SDK's own paging walks a list to its end.
func TestPages(t *testing.T) {
	items := responses.SplitItems([]byte(`[{"id":"msg_a_i0","type":"message","status":"completed","role":"user","content":[{"type":"input_text","text":"a"}]},` +
		`{"id":"fc_a_1","type":"function_call","status":"completed","arguments":"{}","call_id":"c","name":"f"},{"id":"fco_b_i0","type":"function_call_output","status":"completed","call_id":"c","output":"x"}]`))
	c := serve(t, "application/json", func(r *http.Request, _ []byte) []byte {
		p, err := responses.ParsePage(r.URL.Query().Get)
		if err != nil {
			t.Error(err)
		}
		out, err := responses.AppendList(nil, items, p)
		if err != nil {
			t.Error(err)
		}
		return out
	})
	var ids []string
	pager := c.Responses.InputItems.ListAutoPaging(context.Background(), "resp_a", sdkresponses.InputItemListParams{Limit: sdk.Int(1), Order: "asc"})
	for pager.Next() {
		ids = append(ids, pager.Current().ID)
	}
	if pager.Err() != nil || strings.Join(ids, " ") != "msg_a_i0 fc_a_1 fco_b_i0" {
		t.Errorf("%q %v", ids, pager.Err())
	}
	ids = nil
	more := c.Conversations.Items.ListAutoPaging(context.Background(), "conv_a", conversations.ItemListParams{Limit: sdk.Int(2)})
	for more.Next() {
		ids = append(ids, more.Current().ID)
	}
	if more.Err() != nil || strings.Join(ids, " ") != "fco_b_i0 fc_a_1 msg_a_i0" {
		t.Errorf("%q %v", ids, more.Err())
	}
}

func TestConversations(t *testing.T) {
	c := serve(t, "application/json", func(r *http.Request, body []byte) []byte {
		if r.Method == http.MethodDelete {
			return responses.AppendDeleted(nil, "conv_1", "conversation.deleted")
		}
		items, metadata, err := responses.ParseConversation(body)
		if err != nil || len(items) != 1 || items[0].Parts[0].Text != "hello" {
			t.Errorf("%v %v", items, err)
		}
		return responses.AppendConversation(nil, &responses.Conversation{ID: "conv_1", Created: 5, Metadata: metadata})
	})
	conv, err := c.Conversations.New(context.Background(), conversations.ConversationNewParams{
		Items:    []sdkresponses.ResponseInputItemUnionParam{sdkresponses.ResponseInputItemParamOfMessage("hello", sdkresponses.EasyInputMessageRoleUser)},
		Metadata: map[string]string{"a": "b"},
	})
	if err != nil || conv.ID != "conv_1" || conv.CreatedAt != 5 {
		t.Fatalf("%+v %v", conv, err)
	}
	var metadata map[string]string
	if raw, err := json.Marshal(conv.Metadata); err != nil || json.Unmarshal(raw, &metadata) != nil || metadata["a"] != "b" {
		t.Errorf("%v %v", conv.Metadata, err)
	}
	gone, err := c.Conversations.Delete(context.Background(), "conv_1")
	if err != nil || !gone.Deleted || gone.ID != "conv_1" {
		t.Errorf("%+v %v", gone, err)
	}
}

// TestErrors: what is refused arrives as the SDK's error, with the field.
func TestErrors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, err := responses.In(nil).ParseRequest(body)
		if err == nil {
			t.Fatal("it is taken")
		}
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(err.HTTPStatus())
		_, _ = w.Write(responses.In(nil).AppendError(nil, err, ""))
	}))
	t.Cleanup(srv.Close)
	c := sdk.NewClient(option.WithBaseURL(srv.URL+"/v1"), option.WithAPIKey("k"), option.WithMaxRetries(0))
	_, err := c.Responses.New(context.Background(), sdkresponses.ResponseNewParams{
		Model: "alias", Input: sdkresponses.ResponseNewParamsInputUnion{OfString: param.NewOpt("hi")},
		Tools: []sdkresponses.ToolUnionParam{{OfWebSearch: &sdkresponses.WebSearchToolParam{Type: "web_search"}}},
	})
	var e *sdk.Error
	if !errors.As(err, &e) || e.StatusCode != 400 || e.Code != canon.CodeNotTranslatable || e.Param != "tools[0].type" {
		t.Errorf("%v", err)
	}
}
