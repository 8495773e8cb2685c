package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/conversations"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// claude is the model that answers in most of these tests: its provider has never heard of OpenAI's Responses API.
const claude = "claude-sonnet-4-5"

// startKeeping starts a gateway that keeps the conversations of its Route.
func startKeeping(t *testing.T) *remembering {
	t.Helper()
	return startRemembering(t, harness.Document("SessionPolicy", "talks", "targetRefs: [{kind: Route, name: all}]\n"))
}

func responsesClient(g *harness.Gateway, key string) openai.Client {
	return newOpenAI(g.URL, key).client
}

// respond asks in the simplest way.
func respond(t *testing.T, c openai.Client, model, input, previous string) *responses.Response {
	t.Helper()
	p := responses.ResponseNewParams{Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(input)}}
	if previous != "" {
		p.PreviousResponseID = openai.String(previous)
	}
	r, err := c.Responses.New(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != "completed" || r.OutputText() == "" || r.Model != model || r.PreviousResponseID != previous || r.Usage.TotalTokens == 0 {
		t.Fatalf("%s", r.RawJSON())
	}
	return r
}

// heard is what the last request said to a provider, one message a line.
func heard(t *testing.T, s *harness.Sim) string {
	t.Helper()
	list := s.Requests()
	if len(list) == 0 {
		t.Fatal("the provider was not asked")
	}
	var body struct {
		Messages []struct {
			Role    string
			Content any
		}
	}
	if err := json.Unmarshal([]byte(list[len(list)-1].Body), &body); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range body.Messages {
		out = append(out, m.Role+": "+strings.Join(textsIn(m.Content), " "))
	}
	return strings.Join(out, "\n")
}

// textsIn lists the texts of a content, and the names of its other parts.
func textsIn(v any) (out []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, e := range v {
			out = append(out, textsIn(e)...)
		}
	case map[string]any:
		if s, ok := v["text"].(string); ok {
			return []string{s}
		}
		out = append(out, fmt.Sprint("(", v["type"], ")"))
		return append(out, textsIn(v["content"])...)
	}
	return out
}

// Three turns over two providers, a branch from the first, and what is kept of them.
func TestResponsesChain(t *testing.T) {
	t.Parallel()
	r := startKeeping(t)
	c := responsesClient(r.Gateway, harness.DefaultKey)
	one := respond(t, c, claude, "First of all, 10 words.", "")
	two := respond(t, c, "gpt-4o", "Then 11 words.", one.ID)
	if got, want := heard(t, r.openai), "user: First of all, 10 words.\nassistant: "+one.OutputText()+"\nuser: Then 11 words."; got != want {
		t.Errorf("the second provider heard\n%s\nwant\n%s", got, want)
	}
	three := respond(t, c, claude, "At last 12 words.", two.ID)
	if got, want := heard(t, r.anthropic), "user: First of all, 10 words.\nassistant: "+one.OutputText()+"\nuser: Then 11 words.\nassistant: "+two.OutputText()+"\nuser: At last 12 words."; got != want {
		t.Errorf("the first provider heard\n%s\nwant\n%s", got, want)
	}
	respond(t, c, claude, "Or 13 words.", one.ID)
	if got, want := heard(t, r.anthropic), "user: First of all, 10 words.\nassistant: "+one.OutputText()+"\nuser: Or 13 words."; got != want {
		t.Errorf("in the branch the provider heard\n%s\nwant\n%s", got, want)
	}

	ctx := context.Background()
	got, err := c.Responses.Get(ctx, three.ID, responses.ResponseGetParams{})
	if err != nil || got.OutputText() != three.OutputText() || got.ID != three.ID {
		t.Errorf("got back %v %v", got, err)
	}
	items, err := c.Responses.InputItems.List(ctx, three.ID, responses.InputItemListParams{})
	if err != nil || len(items.Data) != 1 || !strings.Contains(items.Data[0].RawJSON(), `"text":"At last 12 words."`) {
		t.Errorf("its input is %v %v", items, err)
	}
	if err := c.Responses.Delete(ctx, two.ID); err != nil {
		t.Error(err)
	}
	_, err = c.Responses.Get(ctx, two.ID, responses.ResponseGetParams{})
	wantRefusal(t, err, 404, "Response with id '"+two.ID+"' not found.")
	_, err = c.Responses.New(ctx, responses.ResponseNewParams{Model: claude, PreviousResponseID: openai.String(two.ID),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("x")}})
	wantRefusal(t, err, 400, "Previous response with id '"+two.ID+"' not found.")

	// Another tenant.
	other := responsesClient(r.Gateway, relayOther)
	_, err = other.Responses.Get(ctx, three.ID, responses.ResponseGetParams{})
	wantRefusal(t, err, 404, "Response with id '"+three.ID+"' not found.")
	wantRefusal(t, other.Responses.Delete(ctx, three.ID), 404, "Response with id '"+three.ID+"' not found.")
	_, err = other.Responses.New(ctx, responses.ResponseNewParams{Model: claude, PreviousResponseID: openai.String(three.ID),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("x")}})
	wantRefusal(t, err, 400, "Previous response with id '"+three.ID+"' not found.")

	// Four answers were bought; what was refused, shown or deleted cost nothing.
	bought := 0
	r.WaitFor("the entries", func() bool {
		bought = 0
		for _, e := range r.Ledger() {
			if e.Cost > 0 {
				bought++
			}
		}
		return bought >= 4
	})
	if bought != 4 || r.asked() != 4 {
		t.Errorf("%d answers were paid for, and %d asked for, want 4", bought, r.asked())
	}
}

func wantRefusal(t *testing.T, err error, status int, message string) {
	t.Helper()
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != status || e.Message != message {
		t.Errorf("got %v, want %d %s", err, status, message)
	}
}

// A stream by the SDK's own reader, with a tool whose result the next request gives.
func TestResponsesStreamsAndTools(t *testing.T) {
	t.Parallel()
	r := startKeeping(t)
	c := responsesClient(r.Gateway, harness.DefaultKey)
	tools := []responses.ToolUnionParam{responses.ToolParamOfFunction("weather", citySchema, false)}
	run := func(p responses.ResponseNewParams) (last *responses.Response, said, arguments string) {
		s := c.Responses.NewStreaming(context.Background(), p)
		n := int64(0)
		for s.Next() {
			if got := s.Current().SequenceNumber; got != n {
				t.Errorf("event %d has the number %d", n, got)
			}
			n++
			switch ev := s.Current().AsAny().(type) {
			case responses.ResponseTextDeltaEvent:
				said += ev.Delta
			case responses.ResponseFunctionCallArgumentsDeltaEvent:
				arguments += ev.Delta
			case responses.ResponseCompletedEvent:
				last = &ev.Response
			}
		}
		if s.Err() != nil || last == nil {
			t.Fatalf("%v, completed %v", s.Err(), last != nil)
		}
		return last, said, arguments
	}
	one, _, arguments := run(responses.ResponseNewParams{Model: claude, Tools: tools, Instructions: openai.String("Be brief."),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("call the tool")}})
	var id string
	for _, item := range one.Output {
		if item.Type == "function_call" {
			id = item.CallID
			if item.Arguments.OfString != arguments || item.Name != "weather" {
				t.Errorf("the call is %s, in pieces it was %s", item.RawJSON(), arguments)
			}
		}
	}
	if id == "" {
		t.Fatalf("no call in %s", one.RawJSON())
	}
	two, said, _ := run(responses.ResponseNewParams{Model: claude, Tools: tools, PreviousResponseID: openai.String(one.ID),
		Input: responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{
			{OfFunctionCallOutput: &responses.ResponseInputItemFunctionCallOutputParam{CallID: openai.String(id),
				Output: responses.ResponseInputItemFunctionCallOutputOutputUnionParam{OfString: openai.String("sunny in Bonn")}}},
		}}})
	if !strings.Contains(said, "sunny in Bonn") || two.OutputText() != said {
		t.Errorf("the answer is %q, in pieces %q", two.OutputText(), said)
	}
	if got := heard(t, r.anthropic); !strings.Contains(got, "(tool_use)") || !strings.HasSuffix(got, "user: (tool_result) sunny in Bonn") {
		t.Errorf("the provider heard\n%s", got)
	}
	if body := r.anthropic.Requests()[len(r.anthropic.Requests())-1].Body; strings.Contains(body, "Be brief.") {
		t.Error("instructions were inherited")
	}
}

func TestResponsesConversation(t *testing.T) {
	t.Parallel()
	r := startKeeping(t)
	c := responsesClient(r.Gateway, harness.DefaultKey)
	ctx := context.Background()
	talk, err := c.Conversations.New(ctx, conversations.ConversationNewParams{Metadata: map[string]string{"topic": "demo"},
		Items: []responses.ResponseInputItemUnionParam{responses.ResponseInputItemParamOfMessage("Rhyme.", responses.EasyInputMessageRoleDeveloper)}})
	if err != nil {
		t.Fatal(err)
	}
	say := func(text string) *responses.Response {
		got, err := c.Responses.New(ctx, responses.ResponseNewParams{Model: claude, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(text)},
			Conversation: responses.ResponseNewParamsConversationUnion{OfString: openai.String(talk.ID)}})
		if err != nil {
			t.Fatal(err)
		}
		if got.Conversation.ID != talk.ID {
			t.Errorf("it is of the conversation %q", got.Conversation.ID)
		}
		return got
	}
	one := say("Hello there, 10 words.")
	say("And 11 words.")
	if got, want := heard(t, r.anthropic), "user: Hello there, 10 words.\nassistant: "+one.OutputText()+"\nuser: And 11 words."; got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
	var texts []string
	pages := c.Conversations.Items.ListAutoPaging(ctx, talk.ID, conversations.ItemListParams{Limit: openai.Int(2), Order: "asc"})
	for pages.Next() {
		texts = append(texts, string(pages.Current().Role))
	}
	if got := strings.Join(texts, " "); pages.Err() != nil || got != "developer user assistant user assistant" {
		t.Errorf("%s, %v", got, pages.Err())
	}
	if _, err := c.Conversations.Delete(ctx, talk.ID); err != nil {
		t.Error(err)
	}
	_, err = c.Conversations.Get(ctx, talk.ID)
	wantRefusal(t, err, 404, "Conversation with id '"+talk.ID+"' not found.")
}

// What a coding agent sends: 40 KB, its own history, nothing to be kept, and a WebSocket tried first.
func TestResponsesAgent(t *testing.T) {
	t.Parallel()
	r := startKeeping(t)
	var tools []string
	for i := range 20 {
		tools = append(tools, fmt.Sprintf(`{"type":"function","name":"tool_%d","description":%q,"strict":false,"parameters":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}}`,
			i, strings.Repeat("What it does. ", 60)))
	}
	body := `{"model":"` + claude + `","instructions":` + fmt.Sprintf("%q", strings.Repeat("You are a coding agent. ", 900)) + `,"input":[` +
		`{"type":"message","role":"developer","content":[{"type":"input_text","text":"permissions"}]},{"type":"message","role":"user","content":[{"type":"input_text","text":"list files"}]},` +
		`{"type":"reasoning","summary":[],"content":null,"encrypted_content":"gAAAAsomebody-elses"},` +
		`{"type":"function_call","name":"tool_1","arguments":"{\"a\":\"ls\"}","call_id":"call_1"},{"type":"function_call_output","call_id":"call_1","output":"a.txt"}],` +
		`"tools":[` + strings.Join(tools, ",") + `],"tool_choice":"auto","parallel_tool_calls":true,"reasoning":{"summary":"auto"},"store":false,"stream":true,` +
		`"include":["reasoning.encrypted_content"],"prompt_cache_key":"k","client_metadata":{"x":"y"}}`
	if len(body) < 40_000 {
		t.Fatalf("only %d bytes", len(body))
	}
	a := do(t, http.DefaultClient, request(t, r.Gateway, "POST", "/v1/responses", "openai", body))
	if a.status != 200 || !strings.HasPrefix(a.header.Get("content-type"), "text/event-stream") {
		t.Fatalf("%d %s", a.status, a.body)
	}
	text := string(a.body)
	if !strings.Contains(text, "event: response.created\n") || !strings.Contains(text, "event: response.completed\n") || !strings.Contains(text, "a.txt") || !strings.Contains(text, `"store":false`) {
		t.Errorf("%s", text)
	}
	if got := a.header.Get("x-weir-dropped"); !strings.Contains(got, "prompt_cache_key") {
		t.Errorf("x-weir-dropped is %q", got)
	}
	up := request(t, r.Gateway, "GET", "/v1/responses", "openai", "")
	up.Header.Set("connection", "Upgrade")
	up.Header.Set("upgrade", "websocket")
	if a := do(t, http.DefaultClient, up); a.status != http.StatusUpgradeRequired {
		t.Errorf("a WebSocket is answered with %d", a.status)
	}
	id := text[strings.Index(text, `"id":"resp_`)+len(`"id":"`):]
	id = id[:strings.IndexByte(id, '"')]
	if a := do(t, http.DefaultClient, request(t, r.Gateway, "GET", "/v1/responses/"+id, "openai", "")); a.status != 404 {
		t.Errorf("what was not to be kept is answered with %d", a.status)
	}
}

// Without a SessionPolicy the API passes to a backend that speaks it, and is refused where none does.
func TestResponsesWithoutPolicy(t *testing.T) {
	t.Parallel()
	r := startRemembering(t, harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\neligible: OptIn\n"))
	c := newOpenAI(r.URL, harness.DefaultKey, openaioption.WithMaxRetries(0)).client
	got, err := c.Responses.New(context.Background(), responses.ResponseNewParams{Model: "gpt-4o", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("10 words")}})
	if err != nil || got.OutputText() == "" {
		t.Fatalf("%v", err)
	}
	if path := r.openai.Requests()[0].Path; path != "/v1/responses" {
		t.Errorf("the provider was asked at %s", path)
	}
	_, err = c.Responses.New(context.Background(), responses.ResponseNewParams{Model: claude, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("10 words")}})
	wantRefusal(t, err, 400, `The backends of the model "`+claude+`" do not speak the openai dialect, and responses requests are not translated unless a SessionPolicy covers them.`)
	_, err = c.Responses.Get(context.Background(), got.ID, responses.ResponseGetParams{})
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != 404 {
		t.Errorf("%v", err)
	}
}
