package usage

// Content is the text of one request, for its spans and nothing else: it must not reach logs, metrics, the ledger or the console. The
// JSON is that of the OpenTelemetry conventions for generative AI. What the operator wants redacted is gone from it.
type Content struct {
	Input  string // gen_ai.input.messages; "" where nothing was captured
	System string // gen_ai.system_instructions, where the caller's dialect has them apart from the messages
	Output string // gen_ai.output.messages
	// InputCut and OutputCut are the bytes of text that were left out, because there was more than was asked for.
	InputCut, OutputCut int64
	// InputMissing and OutputMissing say why there is nothing of what was asked for; "" where there is.
	InputMissing, OutputMissing string
}

// ContentSource collects the Content of a request while it runs. Its methods are safe for concurrent use.
type ContentSource interface {
	// Content is what has come so far.
	Content() Content
	// Close forgets everything: the request is over, and whoever is told of it has been.
	Close()
}

// Capture sets where the text of the request is collected, once at most. Nothing is where it is never called.
func (o *Open) Capture(s ContentSource) {
	o.mu.Lock()
	closed := o.closed
	if !closed {
		o.content = s
	}
	o.mu.Unlock()
	if closed {
		s.Close()
	}
}

// Content is the text of the request, as far as it was captured. It is gone once everybody has been told that the request is
// over: a FinishedSink asks for it in its call, and only if it is to be exported, since making it takes time.
func (o *Open) Content() Content {
	if s := o.source(); s != nil {
		return s.Content()
	}
	return Content{}
}

func (o *Open) source() ContentSource {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.content
}

// forget ends the collection.
func (o *Open) forget() {
	o.mu.Lock()
	s := o.content
	o.content = nil
	o.mu.Unlock()
	if s != nil {
		s.Close()
	}
}
