package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
)

// How a request ended.
const (
	// Running requests have not ended yet.
	Running = "running"
	// Finished ones got their whole answer.
	Finished = "finished"
	// Refused ones got an error for what they were.
	Refused = "refused"
	// Aborted ones lost their client; Tokens says after how many tokens.
	Aborted = "client aborted"
	// Faulted ones met an injected fault; Fault says which.
	Faulted = "faulted"
)

// Summary is what a simulator understood of a request.
type Summary = exchange.Summary

// Usage are the tokens a reply billed.
type Usage = exchange.Usage

// Record is one request as the simulator received it.
type Record struct {
	// ID numbers the requests of a server from 1.
	ID     uint64    `json:"id"`
	At     time.Time `json:"at"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Query is the query string, with credentials replaced.
	Query    string `json:"query,omitempty"`
	Protocol string `json:"protocol"`
	// Header has credential values replaced by fingerprints.
	Header http.Header `json:"header"`
	// Credentials are the fingerprints of all credentials that came, wherever they stood.
	Credentials []string `json:"credentials,omitempty"`
	BodySize    int      `json:"body_size"`
	// Body is the raw body. Lists leave out bodies above 64 KiB (BodySize tells); ask for those one by one.
	Body    string  `json:"body,omitempty"`
	Summary Summary `json:"summary"`
	Status  int     `json:"status,omitempty"`
	End     string  `json:"end"`
	Fault   Kind    `json:"fault,omitempty"`
	// Events and Tokens are what was sent, Reasoning the tokens of them that were thought; Usage is what the whole answer
	// bills.
	Events    int      `json:"events,omitempty"`
	Tokens    int      `json:"tokens,omitempty"`
	Reasoning int      `json:"reasoning,omitempty"`
	Usage     Usage    `json:"usage"`
	Duration  Duration `json:"duration"`
}

// Fingerprint is what a record shows in place of a credential: the start of its SHA-256. Tests compare
// it with the fingerprint of a key that must not, or must, have arrived.
func Fingerprint(credential string) string {
	sum := sha256.Sum256([]byte(credential))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

const (
	maxRecords = 1000
	smallBody  = 64 << 10
	// bodyBudget bounds all kept bodies together, in bytes. The oldest are forgotten first.
	bodyBudget = 64 << 20
)

// journal keeps the newest records. It is safe for concurrent use.
type journal struct {
	mu     sync.Mutex
	list   []*Record // oldest first
	bytes  int
	lastID uint64
}

// begin stores a new record, which update changes later.
func (j *journal) begin(r Record) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lastID++
	r.ID = j.lastID
	j.list = append(j.list, &r)
	if len(j.list) > maxRecords {
		j.bytes -= len(j.list[0].Body)
		j.list[0] = nil
		j.list = j.list[1:]
	}
	return r.ID
}

// update changes a record that is still kept.
func (j *journal) update(id uint64, change func(*Record)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i, ok := slices.BinarySearchFunc(j.list, id, func(r *Record, id uint64) int { return int(int64(r.ID) - int64(id)) })
	if !ok {
		return
	}
	r := j.list[i]
	before := len(r.Body)
	change(r)
	j.bytes += len(r.Body) - before
	for k := 0; j.bytes > bodyBudget && k < len(j.list); k++ {
		j.bytes -= len(j.list[k].Body)
		j.list[k].Body = ""
	}
}

// recent returns copies of the newest records, oldest first, with all bodies.
func (j *journal) recent(limit int) []Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := 0
	if limit > 0 {
		from = max(0, len(j.list)-limit)
	}
	out := make([]Record, 0, len(j.list)-from)
	for _, r := range j.list[from:] {
		out = append(out, *r)
	}
	return out
}

func (j *journal) get(id uint64) (Record, bool) {
	for _, r := range j.recent(0) {
		if r.ID == id {
			return r, true
		}
	}
	return Record{}, false
}

func (j *journal) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.list, j.bytes = nil, 0
}

// secretNames are parts of header and query names whose values are never kept.
var secretNames = []string{"authorization", "key", "token", "secret", "cookie", "password", "signature"}

func secret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretNames, func(s string) bool { return strings.Contains(name, s) })
}

// redact replaces credentials in headers and query, and returns the fingerprints it put there.
func redact(h http.Header, q url.Values) (header http.Header, query string, found []string) {
	replace := func(v string) string {
		scheme, rest, ok := strings.Cut(v, " ")
		if ok && (strings.EqualFold(scheme, "Bearer") || strings.EqualFold(scheme, "Basic") || strings.EqualFold(scheme, "ApiKey")) {
			fp := Fingerprint(strings.TrimSpace(rest))
			found = append(found, fp)
			return scheme + " " + fp
		}
		fp := Fingerprint(v)
		found = append(found, fp)
		return fp
	}
	header = h.Clone()
	for name, values := range header {
		if secret(name) {
			for i, v := range values {
				values[i] = replace(v)
			}
		}
	}
	kept := url.Values{}
	for name, values := range q {
		for _, v := range values {
			if secret(name) {
				v = replace(v)
			}
			kept.Add(name, v)
		}
	}
	slices.Sort(found)
	return header, kept.Encode(), slices.Compact(found)
}
