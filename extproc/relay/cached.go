package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/key"
	"github.com/weir-dev/weir/extproc/cache/replay"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// The words that wire.CacheHeader has beside those of cache.Outcome.
const bypass = "bypass" // the cache may do nothing for the request

// purposeRefresh is what the fill is for that buys an answer again.
const purposeRefresh = "refresh"

// codeNotCached is the code of the error for a caller who takes a kept answer or none.
const codeNotCached = "not_cached"

// maxTags that a caller may give an answer, and bytes of one.
const (
	maxTags     = 16
	maxTagBytes = 64
)

// cached answers by the cache, and by a fill where it has no answer.
func (x *exchange) cached(ctx context.Context) {
	c, p := x.opts.Cache, x.Cache.Policy
	in := key.Input{
		Policy: p, Rule: x.Rule.Name, Models: x.Rule.UpstreamModels(x.Model), Tenant: x.Identity.Tenant, Consumer: x.Identity.ConsumerID, Dialect: x.Dialect.Name, Operation: x.op,
		Body: x.body, Request: x.parsed(), Header: x.header,
	}
	k, may, cerr := key.Of(&in)
	switch {
	case cerr != nil:
		x.refuse(cerr)
		return
	case may.Why != "" && may.Control.OnlyIfCached:
		x.outcome = bypass
		x.refuse(notCached(may.Why))
		return
	case may.Why != "":
		x.outcome = bypass
		x.pass(ctx)
		return
	}
	tags, cerr := callersTags(x.r.Header.Values(wire.CacheTagsHeader))
	if cerr != nil {
		x.refuse(cerr)
		return
	}
	ask := cache.Ask{Key: k, Policy: p, Tenant: x.Identity.Tenant, Consumer: x.Identity.ConsumerID, Model: x.Model, Tags: tags}
	if may.Control.MaxAge > 0 {
		ask.MaxAge = may.Control.MaxAge
	}
	anew := !may.Read // what is kept will not do, and may be replaced
	if may.Read {
		var answered bool
		if answered, anew = x.kept(ctx, c, ask, &may.Control); answered {
			return
		}
	}
	if anew {
		ask.MaxAge = time.Nanosecond
	}
	x.outcome = cache.Miss.String()
	switch {
	case may.Control.OnlyIfCached:
		x.refuse(notCached("no answer to it is kept"))
	case !may.Store:
		x.pass(ctx)
	default:
		var near *meaning
		if may.Read && !anew {
			near = x.meaningOf(&in, ask, &may.Control)
		}
		x.follow(ctx, c.Do(ctx, ask, x.fill("", near)))
	}
}

// header is a header of the request: all of its lines, as one list (RFC 9110, section 5.3).
func (x *exchange) header(name string) string { return strings.Join(x.r.Header.Values(name), ",") }

// notCached refuses a caller who takes a kept answer or none (RFC 9111, section 5.2.1.7).
func notCached(why string) *canon.Error {
	return &canon.Error{Kind: canon.ErrTimeout, Status: http.StatusGatewayTimeout, Code: codeNotCached,
		Message: "The request says only-if-cached, and " + why + "."}
}

// callersTags are the tags that a caller gives the answer.
func callersTags(values []string) (tags []string, _ *canon.Error) {
	for _, v := range values {
		for tag := range strings.SplitSeq(v, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "" {
				continue
			}
			if len(tag) > maxTagBytes || len(tags) == maxTags {
				return nil, &canon.Error{Kind: canon.ErrInvalidRequest,
					Message: "The header " + wire.CacheTagsHeader + " may have 16 tags of 64 bytes each, with commas between."}
			}
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

// parsed is the body as its dialect reads it; nil where it is no chat, or one that cannot be read: then it is the backend's to refuse.
func (x *exchange) parsed() *canon.Request {
	if x.op != canon.OpChat {
		return nil
	}
	if x.request == nil && !x.unreadable {
		r, err := x.Dialect.In.ParseRequest(x.body)
		x.request, x.unreadable = r, err != nil
		if err != nil {
			x.request = nil
		}
	}
	return x.request
}

// to is the caller, to whom answers are told.
func (x *exchange) to() replay.To {
	if x.told != nil {
		return *x.told
	}
	to := replay.To{Dialect: x.Dialect, Stream: x.Stream, RequestID: x.RequestID,
		Reply: canon.Reply{Model: x.Model, ID: x.Open.ID, Created: x.Begun.Unix()}}
	if r := x.parsed(); r != nil {
		to.Reply.IncludeUsage = r.IncludeUsage
	}
	return to
}

// kept answers from what is kept, and says whether it did. anew says that something is kept which will not do.
func (x *exchange) kept(ctx context.Context, c *cache.Cache, ask cache.Ask, control *key.Control) (answered, anew bool) {
	l := c.Get(ctx, ask)
	if l.Outcome == cache.Miss {
		return false, false
	}
	ttl := ask.Policy.TTL
	if l.Outcome == cache.Negative {
		ttl = ask.Policy.NegativeTTL
	}
	if !control.Takes(l.Age, ttl, ask.Policy.StaleWhileRevalidate) {
		return false, true
	}
	answer, err := x.player.Whole(l.Entry, x.to())
	if err != nil {
		x.opts.Log.Warn("a kept answer cannot be told, so that it is bought again", "policy", ask.Policy.ID, "error", err)
		return false, true
	}
	if l.Refresh {
		c.Refresh(ctx, l.Again(ask), x.fill(purposeRefresh, nil))
	}
	x.outcome = l.Outcome.String()
	x.saves(&l.Entry.Purchase)
	x.listens(l.Entry.Head)
	x.hears(ctx, l.Entry.Body, int64(len(l.Entry.Body)))
	h := x.w.Header()
	for _, kv := range answer.Header {
		h.Set(kv[0], kv[1])
	}
	h.Set(ageHeader, strconv.FormatInt(int64(l.Age/time.Second), 10))
	x.sayDropped(h)
	h.Set("content-length", strconv.Itoa(len(answer.Body)))
	x.head(answer.Status)
	_, err = x.w.Write(answer.Body)
	x.broken = err != nil
	return true, false
}

// follow gives the caller an answer that is being bought, as it comes.
func (x *exchange) follow(ctx context.Context, r *cache.Reader) {
	defer r.Close()
	to := &sink{x: x, reader: r}
	err := x.player.Live(ctx, x.hearing(r), x.to(), to)
	var broken *replay.Broken
	switch {
	case err == nil:
		if to.given { // its record comes after the end of this request, which is when the relay has done with it
			p := r.Purchase()
			x.saves(&p)
		}
	case errors.As(err, &broken) && broken.Told: // in the stream, which is over
	case x.begun:
		x.broken = true
	case errors.Is(err, replay.ErrUnplayable), errors.Is(err, replay.ErrUnreadable):
		x.outcome = bypass // nobody else's answer will do
		x.pass(ctx)
	default:
		x.fail(ctx, x.own.Load())
	}
}

// sink is the caller of an exchange. It is a replay.Sink.
type sink struct {
	x      *exchange
	reader *cache.Reader
	given  bool // the answer is not bought for this caller
}

// Begin implements replay.Sink.
func (s *sink) Begin(status int, header [][2]string) error {
	x := s.x
	h := x.w.Header()
	o := s.reader.Outcome()
	x.outcome = o.String()
	told, err := s.reader.Head(x.r.Context())
	near := err == nil && told.Get(wire.SimilarityHeader) != ""
	if near {
		x.outcome = cache.Hit.String() // of another request, by its meaning
		h.Set(ageHeader, told.Get(ageHeader))
		h.Set(wire.SimilarityHeader, told.Get(wire.SimilarityHeader))
	}
	if o == cache.Miss && !near {
		// Its own fill answers, and what that says beside the answer is for this caller.
		if l := x.landing.Load(); l != nil {
			copyHeader(h, l.Header)
			x.landed(l)
		}
	} else {
		if !near && (o == cache.Hit || o == cache.Negative) {
			h.Set(ageHeader, strconv.FormatInt(int64(s.reader.Age()/time.Second), 10))
		}
		s.given = true
		x.Open.Serve(usage.Served{Cache: x.outcome, Kept: true}) // what that saves is known at its end
	}
	h.Del("content-length")
	for _, kv := range header {
		h.Set(kv[0], kv[1])
	}
	x.sayDropped(h)
	x.head(status)
	return nil
}

// Write implements replay.Sink.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.x.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(s.x.w).Flush()
}

// fill buys the answer for the cache, unless one to a request that means the same is kept. It goes on when the caller has left, where others
// wait for it.
func (x *exchange) fill(purpose string, near *meaning) cache.Fill {
	of := x.order()
	of.purpose, of.cache = purpose, cache.Miss.String()
	if purpose != "" {
		of.cache = ""
	}
	return func(ctx context.Context, w *cache.Writer) error {
		order := *of // it may be asked for more than once
		o := &order
		ctx, cancel := context.WithTimeout(ctx, x.Rule.Timeout)
		defer cancel()
		if found, err := near.answer(ctx, w); found {
			return err
		}
		o.claim = w.Claim
		l, err := x.send(ctx, x.Flight, o)
		if purpose == "" {
			x.own.Store(l.fill)
		}
		if err != nil {
			return err
		}
		defer l.Body.Close()
		if purpose == "" {
			x.landing.Store(l)
		}
		head := headOf(l, x.Dialect.Name, x.op)
		if _, refused := l.fill.outcome(); refused != nil && callersOwn(refused) {
			return refuseAlone(w, head, l)
		}
		return x.buy(w, head, l)
	}
}

// headOf is the head of a fill's answer, for the cache.
func headOf(l *landed, dialect string, op canon.Operation) cache.Head {
	h := cache.Head{Status: l.StatusCode, Dialect: dialect, Operation: op}
	for _, name := range []string{"content-type", "retry-after"} {
		if v := l.Header.Get(name); v != "" {
			h.Header = append(h.Header, [2]string{name, v})
		}
	}
	h.Stream = replay.IsStream(h.Status, h.Header)
	return h
}

// callersOwn says whether a fill was refused for a reason that is its caller's own, so that another who wants the same may get it.
func callersOwn(e *canon.Error) bool {
	return e.Policy != "" || e.Kind == canon.ErrPermission || e.Kind == canon.ErrBilling
}

// maxRefusal is how much of a refusal is read, in bytes. They are Weir's own.
const maxRefusal = 1 << 20

// refuseAlone gives a refusal to the caller that it is for.
func refuseAlone(w *cache.Writer, head cache.Head, l *landed) error {
	body, err := readAll(l.Body, maxRefusal)
	if err != nil {
		return err
	}
	return w.Refuse(head, body)
}

// buy writes what a backend answers. What is not whole, or is not the provider's, is not kept.
func (x *exchange) buy(w *cache.Writer, head cache.Head, l *landed) error {
	if err := w.Begin(head); err != nil {
		return err
	}
	most := x.Cache.Policy.MaxEntryBytes
	var whole []byte
	small := true
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := l.Body.Read(*buf)
		if n > 0 {
			if _, err := w.Write((*buf)[:n]); err != nil {
				return err
			}
			if small = small && int64(len(whole)+n) <= most; small {
				whole = append(whole, (*buf)[:n]...)
			} else {
				whole = nil
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	switch {
	case l.refusedByWeir():
		w.NoStore() // another backend, or another configuration, may serve it
	case !small || head.Status/100 != 2: // too large to be kept, or a refusal of the provider's
	default:
		tokens, complete := x.complete(&head, whole)
		if !complete || l.fill.cut() {
			w.NoStore()
		} else {
			w.Bought(x.purchase(l, tokens))
		}
	}
	return nil
}
