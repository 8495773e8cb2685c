package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRedirects is enough for a path that moved; other hosts are refused anyway.
const maxRedirects = 3

// maxBackoff is how long a recovered server may stay unnoticed.
const maxBackoff = time.Minute

// refresh makes the state that follows one try. full looks at the OpenID configuration again; otherwise the keys are fetched
// from where it said last, which is quicker.
func (r *remote) refresh(ctx context.Context, full bool) *remoteState {
	serial := r.begun.Add(1)
	// Without the monotonic reading, which stands still while a laptop sleeps.
	now := r.opts.Clock.Now().Round(0)
	st := *r.state.Load()
	st.serial, st.done = serial, make(chan struct{})
	st.report.Attempted = now
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	set, maxAge, err := r.fetchKeys(ctx, &st, full)
	if err != nil {
		delay := min(minInterval<<min(st.failures, 16), maxBackoff, r.opts.Refresh) // 2 s, 4 s, 8 s, ... 1 min
		st.failures++
		st.next = now.Add(delay)
		st.report.Next, st.report.Err = st.next, err.Error()
		return &st
	}
	interval := r.opts.Refresh
	if maxAge > 0 {
		interval = min(max(maxAge, minMaxAge), maxMaxAge)
	}
	st.set, st.failures = set, 0
	st.next = now.Add(interval)
	st.fresh = st.next
	st.report = SourceState{
		URL: r.url, KeysURL: st.keysURL, Keys: set.Len(), Skipped: set.Skipped(),
		Fetched: now, Attempted: now, Next: st.next,
	}
	return &st
}

// fetchKeys gets the key set, and notes in st where it was and what it was. The same document gives the same pointer: tokens
// verified with it stay in caches.
func (r *remote) fetchKeys(ctx context.Context, st *remoteState, full bool) (*KeySet, time.Duration, error) {
	at := r.url
	if r.issuer != "" {
		if full || st.keysURL == "" {
			found, err := r.discover(ctx)
			if err != nil {
				return nil, 0, err
			}
			st.keysURL = found
		}
		at = st.keysURL
	}
	body, maxAge, err := r.fetch(ctx, at)
	if err != nil {
		return nil, 0, err
	}
	hash := sha256.Sum256(body)
	if st.set != nil && hash == st.bodyHash {
		return st.set, maxAge, nil
	}
	set, err := ParseJWKS(body)
	if err != nil {
		return nil, 0, fmt.Errorf("GET %s: %w", at, err)
	}
	st.bodyHash = hash
	return set, maxAge, nil
}

// fetch gets a document and the max-age its server gives it, 0 for none.
func (r *remote) fetch(ctx context.Context, at string) ([]byte, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "weir")
	resp, err := r.opts.Client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }() // reading it has told of any failure that counts
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("GET %s answered status %d instead of 200", at, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, r.opts.MaxBytes+1))
	if err != nil {
		return nil, 0, fmt.Errorf("GET %s broke off: %w", at, err)
	}
	if int64(len(body)) > r.opts.MaxBytes {
		return nil, 0, fmt.Errorf("GET %s answered more than %d bytes", at, r.opts.MaxBytes)
	}
	return body, maxAgeOf(resp.Header), nil
}

// sameOrigin lets a redirect lead only to the same scheme, host and port: whoever controls another host must
// not be able to hand out keys.
func sameOrigin(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.URL.Scheme != first.Scheme || !strings.EqualFold(req.URL.Host, first.Host) {
		return errors.New("it redirects to another host or scheme, which is not followed; configure the final URL")
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("it redirects more than %d times", maxRedirects)
	}
	return nil
}

// maxAgeOf reads max-age from cache-control (RFC 9111 section 5.2.2.1). 0 where it is absent, not a number, or overruled
// by no-store or no-cache.
func maxAgeOf(h http.Header) time.Duration {
	var age time.Duration
	for _, line := range h.Values("Cache-Control") {
		for part := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				return 0
			case "max-age":
				// 32 bits: seconds beyond that would overflow a Duration.
				if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 32); err == nil {
					age = time.Duration(s) * time.Second
				}
			}
		}
	}
	return age
}
