package main

import (
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// pushed is what one side was sent.
type pushed struct {
	Bytes     int64 `json:"bytes"`
	Resources int64 `json:"resources"`
	Removed   int64 `json:"removed,omitempty"`
	Responses int64 `json:"responses"`
}

func (p *pushed) add(q pushed) {
	p.Bytes += q.Bytes
	p.Resources += q.Resources
	p.Removed += q.Removed
	p.Responses += q.Responses
}

// meter looks at the streams of some clients. What it counts it counts since reset. It is safe for concurrent use.
type meter struct {
	removals bool // that something is gone is news as well: Envoy is told so long after nothing uses it any more

	mu      sync.Mutex
	total   pushed
	by      map[string]pushed // by the last part of the type
	open    map[answerTo]bool // responses that have not been answered; true: with news
	acked   map[int]time.Time // by client: when it last took news
	last    time.Time         // anything
	refusal string
}

type answerTo struct {
	client int
	nonce  string
}

func newMeter(removals bool) *meter {
	m := &meter{removals: removals, open: map[answerTo]bool{}}
	m.reset()
	return m
}

// reset begins anew.
func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total, m.by, m.acked, m.last = pushed{}, map[string]pushed{}, map[int]time.Time{}, time.Time{}
}

// response counts one to a client, of so many bytes; 0 are those of the message.
func (m *meter) response(client int, r *discoveryv3.DeltaDiscoveryResponse, bytes int) {
	if bytes == 0 {
		bytes = proto.Size(r)
	}
	p := pushed{int64(bytes), int64(len(r.GetResources())), int64(len(r.GetRemovedResources())), 1}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total.add(p)
	kind := shortType(r.GetTypeUrl())
	sum := m.by[kind]
	sum.add(p)
	m.by[kind] = sum
	m.open[answerTo{client, r.GetNonce()}] = p.Resources > 0 || m.removals && p.Removed > 0
	m.last = time.Now()
}

// request takes note of a client's answer, when it is sent.
func (m *meter) request(client int, r *discoveryv3.DeltaDiscoveryRequest) {
	if r.GetResponseNonce() == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	to := answerTo{client, r.GetResponseNonce()}
	with, known := m.open[to]
	if !known {
		return
	}
	delete(m.open, to)
	m.last = time.Now()
	switch {
	case r.GetErrorDetail() != nil:
		m.refusal = r.GetErrorDetail().GetMessage()
	case with:
		m.acked[client] = m.last
	}
}

// reading is what a meter says.
type reading struct {
	pushed
	By      map[string]pushed
	clients int       // that have taken something
	at      time.Time // the last of them
	last    time.Time
	refusal string
}

func (m *meter) read() reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := reading{pushed: m.total, By: map[string]pushed{}, clients: len(m.acked), last: m.last, refusal: m.refusal}
	for kind, p := range m.by {
		r.By[kind] = p
	}
	for _, at := range m.acked {
		if at.After(r.at) {
			r.at = at
		}
	}
	return r
}

// shortType is the last word of a type URL.
func shortType(url string) string {
	for i := len(url) - 1; i >= 0; i-- {
		if url[i] == '.' {
			return url[i+1:]
		}
	}
	return url
}
