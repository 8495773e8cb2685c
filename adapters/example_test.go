package adapters

import (
	"strconv"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// This file is the example of README.md: a whole outbound dialect for an imaginary provider, Parrot,
// which takes text alone. A real one is the same code in a folder of its own.
//
//	POST /talk     {"model":"...","prompt":"...","limit":99,"live":true}
//	answer         {"says":"...","end":"done"|"limit","count":[read, written]}
//	live answer    data: {"says":"..."}   and at last   data: {"end":"done","count":[3,5]}
//	failure        {"why":"..."}

func parrotDialect() canon.Dialect {
	return canon.Dialect{
		Name:      "parrot",
		Endpoints: []canon.Endpoint{{Op: canon.OpChat, Method: "POST", Path: "/talk"}},
		Out:       parrot{},
	}
}

type parrot struct{}

func (parrot) BuildCall(r *canon.Request, o canon.CallOptions) (*canon.Call, *canon.Error) {
	d := canon.NewDraft(r)
	if len(r.Tools) > 0 { // never leave out in silence what changes the answer
		d.Fail("tools", "tools must be absent: parrot models call none")
	}
	d.Raw(`{"model":`)
	d.Str(o.Model)
	d.Raw(`,"prompt":"`)
	for _, m := range r.Messages {
		for _, p := range m.Parts {
			if p.Kind != canon.PartText {
				d.Fail("messages", "messages must be text alone: parrot models know nothing else")
			}
			d.Text = jsonx.AppendEscaped(d.Text, string(m.Role)+": "+p.Text+"\n")
		}
	}
	d.Raw(`"`)
	if r.Temperature != nil { // a wish that the answer can do without; so for each other field
		d.Drop("temperature")
	}
	if r.MaxTokens != nil {
		d.Raw(`,"limit":`)
		d.Int(*r.MaxTokens)
	}
	if r.Stream {
		d.Raw(`,"live":true`)
	}
	d.Raw("}")
	if d.Err != nil {
		return nil, d.Err
	}
	return &canon.Call{Path: "/talk", Body: d.Text, Dropped: d.Dropped}, nil
}

func (parrot) ParseResponse(body []byte) (*canon.Response, *canon.Error) {
	if err := jsonx.Check(body); err != nil {
		return nil, &canon.Error{Kind: canon.ErrBadGateway, Message: "the provider's answer is not valid JSON: " + err.Error()}
	}
	root := jsonx.Root(body)
	return &canon.Response{
		Parts:  []canon.Part{{Text: root.Get("says").Str()}},
		Finish: parrotEnd(root.Get("end")),
		Usage:  parrotUsage(root.Get("count")),
	}, nil
}

func parrotEnd(v jsonx.Value) canon.FinishReason {
	if v.Str() == "limit" {
		return canon.FinishLength
	}
	return canon.FinishStop
}

func parrotUsage(v jsonx.Value) *canon.Usage {
	if v.Len() != 2 {
		return nil // unknown is not zero
	}
	u := &canon.Usage{}
	for i, n := range v.Elements() {
		if i == 0 {
			u.Input, _ = n.Int()
		} else {
			u.Output, _ = n.Int()
		}
	}
	return u
}

func (parrot) ParseError(status int, retryAfter string, body []byte) *canon.Error {
	e := &canon.Error{Kind: canon.KindOf(status), RetryAfter: canon.ParseRetryAfter(retryAfter)}
	e.Message = "the provider answered with status " + strconv.Itoa(status)
	if jsonx.Check(body) == nil {
		if why := jsonx.Root(body).Get("why").Str(); why != "" {
			e.Message = why
		}
	}
	return e
}

func (parrot) Credentials(key string) []canon.Credential {
	return []canon.Credential{{Name: "x-parrot-key", Value: key}}
}

func (parrot) SetModel(body []byte, model string) ([]byte, *canon.Error) {
	out, err := jsonx.SetString(body, "model", model)
	if err != nil {
		return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Param: "model", Message: err.Error()}
	}
	return out, nil
}

func (parrot) NewStreamDecoder() canon.StreamDecoder { return &parrotDecoder{} }

type parrotDecoder struct {
	lines   sse.Reader
	out     canon.Emitter
	started bool
	ended   bool
}

func (d *parrotDecoder) Feed(chunk []byte, emit func(*canon.Event)) {
	if d.ended {
		return
	}
	d.out.To = emit
	d.lines.Feed(chunk, d.event)
	if err := d.lines.Err(); err != nil && !d.ended {
		d.fail(err.Error())
	}
}

func (d *parrotDecoder) event(ev sse.Event) {
	// Without data it is a comment: nothing was said. Again knows an event that is the one before with another text.
	if ev.Data == nil || d.ended || d.out.Again(ev.Data) {
		return
	}
	if jsonx.Check(ev.Data) != nil {
		d.fail("the provider's stream has an event that is not JSON")
		return
	}
	f := jsonx.Root(ev.Data).Fields()
	if !d.started {
		d.started = true
		d.out.Send(canon.Event{Kind: canon.EventStart})
	}
	d.out.SendText(canon.Event{Kind: canon.EventText}, f.Get("says"))
	if end := f.Get("end"); !end.Missing() {
		d.ended = true
		d.out.Send(canon.Event{Kind: canon.EventFinish, Finish: parrotEnd(end)})
		if u := parrotUsage(f.Get("count")); u != nil {
			d.out.Send(canon.Event{Kind: canon.EventUsage, Usage: u})
		}
	}
	d.out.Read(ev.Data)
}

func (d *parrotDecoder) Ended() bool { return d.ended }

func (d *parrotDecoder) End(emit func(*canon.Event)) {
	d.out.To = emit
	if !d.ended {
		d.fail("the provider's stream ended before the answer was complete")
	}
}

func (d *parrotDecoder) fail(message string) {
	d.ended = true
	d.out.Send(canon.Event{Kind: canon.EventError, Err: &canon.Error{Kind: canon.ErrBadGateway, Message: message}})
}

func TestExample(t *testing.T) {
	s, err := NewSet(append(Catalog(), parrotDialect())...)
	if err != nil {
		t.Fatal(err)
	}
	openai, _ := s.Get("openai")
	anthropic, _ := s.Get("anthropic")
	out, _ := s.Get("parrot")

	r, e := openai.In.ParseRequest([]byte(`{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":9,"temperature":1,"store":true,"stream":true}`))
	if e != nil {
		t.Fatal(e)
	}
	call, e := out.Out.BuildCall(r, canon.CallOptions{Model: "grey"})
	if e != nil {
		t.Fatal(e)
	}
	if want := `{"model":"grey","prompt":"user: Hi\n","limit":9,"live":true}`; string(call.Body) != want {
		t.Errorf("call %s, want %s", call.Body, want)
	}
	if got := strings.Join(call.Dropped, " "); got != "store temperature" {
		t.Errorf("dropped %q", got)
	}
	stream := []byte("data: {\"says\":\"Hi \"}\n\ndata: {\"says\":\"yourself\"}\n\ndata: {\"end\":\"limit\",\"count\":[3,5]}\n\n")
	want := `text "Hi yourself", reasoning "", tools [], finish length usage {Input:3 CacheRead:0 CacheWrite:0 Output:5 Reasoning:0}`
	for _, in := range []canon.Dialect{openai, anthropic} {
		for size := range len(stream) {
			if got := summary(in, transcribe(out, in, stream, size+1), ""); got != want {
				t.Fatalf("chunks of %d: a caller of %s reads %s\nwant %s", size+1, in.Name, got, want)
			}
		}
		if got := summary(in, transcribe(out, in, stream[:30], 30), ""); !strings.HasSuffix(got, " error") {
			t.Errorf("a caller of %s takes a stream that was cut for whole: %s", in.Name, got)
		}
	}
	if got := adaptertest.Ending(t, out.Out.NewStreamDecoder, stream); got != "(ended by line 5 of 5)\n" {
		t.Error(got)
	}
	answer, e := out.Out.ParseResponse([]byte(`{"says":"Hi","end":"done","count":[3,5]}`))
	if e != nil {
		t.Fatal(e)
	}
	if got := string(openai.In.AppendResponse(nil, answer, reply)); !strings.Contains(got, `"content":"Hi"`) || !strings.Contains(got, `"total_tokens":8`) {
		t.Errorf("answer %s", got)
	}
	if got := string(anthropic.In.AppendError(nil, out.Out.ParseError(429, "2", []byte(`{"why":"tired"}`)), "")); !strings.Contains(got, "rate_limit_error") || !strings.Contains(got, "tired") {
		t.Errorf("error %s", got)
	}
}
