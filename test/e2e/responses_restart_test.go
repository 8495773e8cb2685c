package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// responding asks by the Responses API, plain or as a stream, with a tool.
type responding struct {
	g        *talks
	stream   bool
	model    string
	previous string
	text     string // "": the result of a call
	callID   string
	result   string
}

func (r responding) ask(t *testing.T) *responses.Response {
	t.Helper()
	c := responsesClient(r.g.Gateway, talker("open"))
	p := responses.ResponseNewParams{Model: r.model, Tools: []responses.ToolUnionParam{responses.ToolParamOfFunction("weather", citySchema, false)},
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(r.text)}}
	if r.text == "" {
		p.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{{
			OfFunctionCallOutput: &responses.ResponseInputItemFunctionCallOutputParam{CallID: openai.String(r.callID),
				Output: responses.ResponseInputItemFunctionCallOutputOutputUnionParam{OfString: openai.String(r.result)}},
		}}}
	}
	if r.previous != "" {
		p.PreviousResponseID = openai.String(r.previous)
	}
	var out *responses.Response
	if r.stream {
		s := c.Responses.NewStreaming(t.Context(), p)
		for s.Next() {
			if ev, ok := s.Current().AsAny().(responses.ResponseCompletedEvent); ok {
				out = &ev.Response
			}
		}
		must(t, s.Err())
	} else {
		var err error
		out, err = c.Responses.New(t.Context(), p)
		must(t, err)
	}
	if out == nil || out.Status != "completed" || out.PreviousResponseID != r.previous || out.ID == r.previous {
		t.Fatalf("%+v: %+v", r, out)
	}
	return out
}

// callOf is the ID of the one call in a response.
func callOf(t *testing.T, r *responses.Response) (id string) {
	t.Helper()
	for _, item := range r.Output {
		if item.Type == "function_call" && id == "" {
			id = item.CallID
		} else if item.Type == "function_call" {
			t.Errorf("two calls in %s", r.RawJSON())
		}
	}
	if id == "" {
		t.Fatalf("no call in %s", r.RawJSON())
	}
	return id
}

// testResponsesRestart: a conversation by previous_response_id over a provider that knows nothing of it, plain and as streams, with calls of tools.
// Between a call and its result weir is killed, and ended, and another gateway goes on.
func testResponsesRestart(t *testing.T, s *sharedTalks) {
	x := s.one
	one := responding{g: x, stream: true, model: claude, text: "Please call the tool."}.ask(t)
	first := callOf(t, one)
	x.Kill(syscall.SIGKILL)
	x.Wait()
	harness.WaitFor(t, "all of it has ended", func() bool { return len(x.Leftovers()) == 0 })
	x.Restart()
	two := responding{g: x, model: claude, previous: one.ID, callID: first, result: "snow in Ulm"}.ask(t)
	if !strings.Contains(two.OutputText(), "snow in Ulm") {
		t.Errorf("the answer is %q", two.OutputText())
	}
	three := responding{g: x, model: claude, previous: two.ID, text: "Again: call the tool."}.ask(t)
	second := callOf(t, three)
	x.Kill(syscall.SIGTERM)
	x.Wait()
	four := responding{g: s.two, stream: true, model: claude, previous: three.ID, callID: second, result: "rain in Bonn"}.ask(t)
	if !strings.Contains(four.OutputText(), "rain in Bonn") {
		t.Errorf("the answer is %q", four.OutputText())
	}
	said := []string{"user: Please call the tool.", "assistant: " + one.OutputText() + " (tool_use)", "user: (tool_result) snow in Ulm", "assistant: " + two.OutputText(),
		"user: Again: call the tool.", "assistant: " + three.OutputText() + " (tool_use)", "user: (tool_result) rain in Bonn"}
	last := x.at(t, claude).Last().Body
	if got, want := transcript(t, last), strings.Join(said, "\n"); got != want {
		t.Errorf("the provider heard\n%s\nwant\n%s", got, want)
	}
	for _, id := range []string{first, second} { // in the call, and in its result
		if n := strings.Count(last, `"`+id+`"`); n != 2 {
			t.Errorf("the call %s is named %d times: %s", id, n, last)
		}
	}
	x.Restart()
	// Another provider hears all of it, and so does a branch from before.
	five := responding{g: x, stream: true, model: "gpt-4o", previous: four.ID, text: "Thanks, in 12 words."}.ask(t)
	last = x.at(t, "gpt-4o").Last().Body
	for _, part := range []string{"Please call the tool.", `"` + first + `"`, "snow in Ulm", "Again: call the tool.", `"` + second + `"`, "rain in Bonn", "Thanks, in 12 words."} {
		if !strings.Contains(last, part) {
			t.Errorf("the other provider did not hear %s: %s", part, last)
		}
	}
	responding{g: x, model: claude, previous: two.ID, text: "Or 13 words."}.ask(t)
	if got, want := transcript(t, x.at(t, claude).Last().Body), strings.Join(append(said[:4:4], "user: Or 13 words."), "\n"); got != want {
		t.Errorf("in the branch the provider heard\n%s\nwant\n%s", got, want)
	}
	c := responsesClient(s.two.Gateway, talker("open"))
	if got, err := c.Responses.Get(t.Context(), five.ID, responses.ResponseGetParams{}); err != nil || got.OutputText() != five.OutputText() {
		t.Errorf("the last one is kept as %+v (%v)", got, err)
	}
}
