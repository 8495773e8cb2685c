package relay

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/key"
	"github.com/weir-dev/weir/extproc/cache/semantic"
	"github.com/weir-dev/weir/extproc/wire"
)

// purposeEmbedding is what the fill is for that tells the meaning of a request.
const purposeEmbedding = "embedding"

// embeddingsPath is where OpenAI's dialect has embeddings, below its root.
const embeddingsPath = "/embeddings"

// maxEmbedding is how much of the answer to a request for an embedding is read, in bytes: 16,384 numbers, written out.
const maxEmbedding = 1 << 20

// ageHeader says how old an answer is, in seconds (RFC 9111, section 5.1).
const ageHeader = "age"

// meaning looks for answers to requests that mean the same as one.
type meaning struct {
	x       *exchange
	ask     cache.Ask
	control *key.Control
	guard   cache.Key
	text    string
}

// meaningOf is how answers to a request are found by its meaning; nil where they are not.
func (x *exchange) meaningOf(in *key.Input, ask cache.Ask, control *key.Control) *meaning {
	if ask.Policy.Semantic == nil {
		return nil
	}
	guard, text, ok := key.Guard(in)
	if !ok {
		return nil
	}
	ask.MaxAge = 0 // what is too old for this caller need not be for the next
	return &meaning{x, ask, control, guard, text}
}

// answer gives the answer to a request that means the same, and tells whether there is one. Where there is none the answer that is bought is
// found from when it is kept. It may be called on nil.
func (m *meaning) answer(ctx context.Context, w *cache.Writer) (bool, error) {
	if m == nil {
		return false, nil
	}
	f := m.x.opts.Meanings
	probe, err := m.find(ctx)
	if err != nil {
		return false, nil
	}
	found, err := m.choose(ctx, w, probe)
	if found {
		return true, err
	}
	if probe.Remembered() {
		if probe, err = m.find(ctx); err != nil {
			return false, nil
		}
		if found, err = m.choose(ctx, w, probe); found {
			return true, err
		}
	}
	w.Kept(func() {
		// The caller may be gone, and yet others will ask.
		m.trouble("the meaning of a request could not be kept", f.Learn(context.WithoutCancel(ctx), probe))
	})
	return false, nil
}

// find looks for requests that mean the same.
func (m *meaning) find(ctx context.Context) (*semantic.Probe, error) {
	probe, err := m.x.opts.Meanings.Find(ctx, &semantic.Query{
		Policy: m.ask.Policy, Key: m.ask.Key, Guard: m.guard, Text: m.text, Tenant: m.ask.Tenant, Model: m.ask.Model,
		Embedder: &embedder{m.x.Server, m.x.Flight, m.x.openaiAPI(embeddingsPath)},
	})
	m.trouble("an answer could not be looked for by its meaning", err)
	return probe, err
}

// trouble notes an error that costs the caller nothing.
func (m *meaning) trouble(what string, err error) {
	if err != nil {
		m.x.opts.Log.Debug(what, "policy", m.ask.Policy.ID, "error", err)
	}
}

// choose gives the first answer of a probe that is kept and that the caller takes.
func (m *meaning) choose(ctx context.Context, w *cache.Writer, probe *semantic.Probe) (bool, error) {
	f, c := m.x.opts.Meanings, m.x.opts.Cache
	for _, match := range probe.Matches {
		ask := m.ask
		ask.Key = match.Key
		l := c.Get(ctx, ask)
		if l.Outcome == cache.Hit && m.takes(l.Age) {
			w.Found(l.Entry.Purchase)
			f.Served(probe, match)
			return true, m.give(w, &l, match)
		}
		// One that is too old, or too old for this caller, may do for another.
		if probe.Remembered() || l.Outcome == cache.Miss || l.Outcome == cache.Negative {
			m.trouble("a meaning that leads nowhere could not be forgotten", f.Forget(ctx, probe, match))
		}
	}
	return false, nil
}

// takes tells whether the caller takes an answer of this age.
func (m *meaning) takes(age time.Duration) bool {
	p := m.ask.Policy
	return (m.control.MaxAge <= 0 || age <= m.control.MaxAge) && m.control.Takes(age, p.TTL, p.StaleWhileRevalidate)
}

// give writes an answer that is kept. What is said of it stands in its head, for those who wait for it too.
func (m *meaning) give(w *cache.Writer, l *cache.Lookup, match semantic.Match) error {
	head := l.Entry.Head
	head.Header = append(append([][2]string(nil), head.Header...),
		[2]string{ageHeader, strconv.FormatInt(int64(l.Age/time.Second), 10)},
		[2]string{wire.SimilarityHeader, semantic.Similarity(match.Similarity)})
	if err := w.Begin(head); err != nil {
		return err
	}
	_, err := w.Write(l.Entry.Body)
	return err
}

// openaiAPI is a path below the root of OpenAI's dialect, behind whatever the caller has before the paths of its own.
func (x *exchange) openaiAPI(path string) string {
	prefix := strings.TrimSuffix(x.r.URL.Path, "/")
	prefix = strings.TrimSuffix(prefix, x.Dialect.Root+x.Endpoint.Path)
	return prefix + "/v1" + path
}

// embedder asks for embeddings on behalf of a caller. It is a semantic.Embedder.
type embedder struct {
	s    *Server
	f    *Flight
	path string
}

// Embeddings implements semantic.Embedder.
func (e *embedder) Embeddings(ctx context.Context, body []byte) (status int, answer []byte, err error) {
	l, err := e.s.send(ctx, e.f, &order{
		purpose: purposeEmbedding, path: e.path, header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}, body: body,
	})
	if err != nil {
		return 0, nil, err
	}
	defer l.Body.Close()
	answer, err = readAll(l.Body, maxEmbedding)
	return l.StatusCode, answer, err
}
