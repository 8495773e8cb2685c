package gpu

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// job is a chat request that the engine works on.
type job struct {
	*call
	req  *chatRequest
	id   string
	text string // of the whole answer
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	TotalTokens      int `json:"total_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	Details          struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func (j *job) usage(n news) *usage {
	u := &usage{PromptTokens: j.prompt, CompletionTokens: n.generated, TotalTokens: j.prompt + n.generated}
	u.Details.CachedTokens = n.cached
	return u
}

func (j *job) finishReason() string {
	if j.cut {
		return "length"
	}
	return "stop"
}

// chat answers POST /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	if status := s.Fault().Fail; status != 0 {
		s.failed.Add(1)
		refuse(w, status, "this status was asked for by /control")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.aborted.Add(1)
		panic(http.ErrAbortHandler) // the rest of the request is not going to be read
	}
	req, err := parseChat(body)
	if err != nil {
		s.refused.Add(1)
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if names := s.pool.opts.Models; len(names) > 0 && !slices.Contains(names, req.Model) {
		s.refused.Add(1)
		refuse(w, http.StatusNotFound, fmt.Sprintf("The model `%s` does not exist.", req.Model))
		return
	}
	j, err := s.submit(req)
	if err != nil {
		s.refused.Add(1)
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	// Whoever leaves frees the slot, whichever way this ends.
	defer s.driver.cancel(j.call)
	if req.Stream {
		s.stream(w, r, j)
	} else {
		s.plain(w, r, j)
	}
}

// submit hands a request to the engine.
func (s *Server) submit(req *chatRequest) (*job, error) {
	o := s.pool.opts
	prompt := req.prompt()
	n, room := tokens(prompt), s.pool.opts.Profile.Capacity()
	limit := room - n
	if l := req.limit(); l != nil {
		limit = *l
	}
	if limit < 1 || n+limit > room {
		return nil, fmt.Errorf("This model's maximum context length is %d tokens. However, you requested %d output tokens and your prompt contains %d input tokens. Please reduce the length of the input prompt or the number of requested output tokens.", room, max(limit, 1), n)
	}
	out := max(length(prompt, o.Seed, o.OutputTokens), req.MinTokens)
	cut := req.IgnoreEOS || out >= limit
	if cut {
		out = limit
	}
	text := answer(prompt, o.Seed, out)
	c, err := s.driver.submit(engine.Request{Blocks: blocks(o.Profile.BlockTokens, prompt, text), PromptTokens: n, OutputTokens: out}, limit, cut)
	return &job{call: c, req: req, id: fmt.Sprintf("chatcmpl-%016x%08x", s.seed, c.id), text: text}, err
}

// failure answers for a call that the engine gave up before its answer began.
func (s *Server) failure(w http.ResponseWriter) {
	s.failed.Add(1)
	refuse(w, http.StatusInternalServerError, "the engine failed: EngineCore encountered an issue")
}

// loadHeader adds the ORCA header to an answer, if the request asks for it.
func (s *Server) loadHeader(w http.ResponseWriter, r *http.Request) {
	if h := s.orca(r.Header.Get("endpoint-load-metrics-format")); h != "" {
		w.Header().Set("endpoint-load-metrics", h)
	}
}

// plain waits for the whole answer.
func (s *Server) plain(w http.ResponseWriter, r *http.Request, j *job) {
	var n news
	var err error
	for !n.ended {
		if n, err = s.driver.wait(r.Context(), j.call, n.generated); err != nil {
			s.aborted.Add(1)
			return
		}
	}
	if n.end != engine.Finished {
		s.failure(w)
		return
	}
	type msg struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	type choice struct {
		Index        int     `json:"index"`
		Message      msg     `json:"message"`
		Logprobs     *string `json:"logprobs"`
		FinishReason string  `json:"finish_reason"`
		StopReason   *string `json:"stop_reason"`
	}
	s.loadHeader(w, r)
	s.served.Add(1)
	writeJSON(w, http.StatusOK, struct {
		ID      string   `json:"id"`
		Object  string   `json:"object"`
		Created int64    `json:"created"`
		Model   string   `json:"model"`
		Choices []choice `json:"choices"`
		Usage   *usage   `json:"usage"`
	}{j.id, "chat.completion", s.pool.opts.Now().Unix(), j.req.Model,
		[]choice{{Message: msg{"assistant", j.text}, FinishReason: j.finishReason()}}, j.usage(n)})
}

// chunk is an event of a stream.
type chunk struct {
	ID      string        `json:"id"`
	Object  string        `json:"object"`
	Created int64         `json:"created"`
	Model   string        `json:"model"`
	Choices []chunkChoice `json:"choices"`
	Usage   *usage        `json:"usage,omitempty"`
}

type chunkChoice struct {
	Index        int     `json:"index"`
	Delta        delta   `json:"delta"`
	Logprobs     *string `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

type delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// stream sends tokens as they come. As vLLM does, it sends the headers at once, while the request may have to wait, and puts
// tokens that came faster than the client reads into one event.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, j *job) {
	if n, over := s.driver.look(j.call); over && n.end != engine.Finished {
		s.failure(w)
		return
	}
	if s.Fault().ORCAStreams {
		s.loadHeader(w, r)
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	flow := http.NewResponseController(w)
	c := chunk{ID: j.id, Object: "chat.completion.chunk", Created: s.pool.opts.Now().Unix(), Model: j.req.Model}
	send := func(choices ...chunkChoice) error {
		c.Choices = choices
		if choices == nil {
			c.Choices = []chunkChoice{}
		}
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "data: %s\n\n", b)
		return err
	}
	err := flow.Flush()
	var n news
	for sent := 0; err == nil && !n.ended; sent = n.generated {
		if n, err = s.driver.wait(r.Context(), j.call, sent); err != nil || n.generated == sent {
			break // without a token more it ended, and not well
		}
		if sent == 0 {
			err = send(chunkChoice{Delta: delta{Role: "assistant", Content: new("")}})
		}
		d := chunkChoice{Delta: delta{Content: new(j.text[sent*tokenBytes : n.generated*tokenBytes])}}
		if n.ended && n.end == engine.Finished {
			d.FinishReason = new(j.finishReason())
		}
		if err == nil {
			err = send(d)
		}
		if err == nil && !n.ended {
			err = flow.Flush()
		}
	}
	if err == nil && n.end == engine.Finished {
		if o := j.req.StreamOptions; o != nil && o.IncludeUsage {
			c.Usage = j.usage(n)
			err = send()
		}
		if err == nil {
			s.served.Add(1)
			_, _ = io.WriteString(w, "data: [DONE]\n\n") // who leaves now has the answer
			return
		}
	}
	s.aborted.Add(1)
	panic(http.ErrAbortHandler) // breaks the connection, so that nobody takes this for a whole answer
}
