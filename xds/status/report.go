// Package status tells the people who wrote objects what became of them: conditions, with the reason and the field of every refusal, and
// events. Programmed is true only where every live replica serves the generation that the condition speaks of, so each process reports
// what its Envoy serves, and the one that is the leader puts the reports together and writes.
package status

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/xds/source"
)

const (
	// maxExceptions of a Set are told; with more it is named by the digest of what was compiled.
	maxExceptions = 200
	// maxReport bounds what is read of a report, in bytes; an annotation holds no more.
	maxReport = 256 << 10
	// maxRefused objects are told.
	maxRefused = 200
	// maxReason bounds what is told of Envoy's words, in bytes.
	maxReason = 512
)

// Report is what a process says of the replicas it speaks for: the one Envoy beside it, or the sidecars of a fleet.
type Report struct {
	Serving  []Serving   `json:"serving,omitempty"`
	Rejected []Rejection `json:"rejected,omitempty"`
	// Refused are objects that Envoy refuses on some of the replicas that serve the rest.
	Refused []ObjectRefusal `json:"refused,omitempty"`
}

// ObjectRefusal is a generation of an object that Envoy refuses, or of which it refuses a value, on some replicas.
type ObjectRefusal struct {
	Kind       string    `json:"kind"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid,omitempty"`
	Generation int64     `json:"generation"`
	Replicas   int       `json:"replicas"`
	// Reason says so, with Envoy's words.
	Reason string `json:"reason"`
}

// Reports are the reports of all live processes, by their names.
type Reports map[string]Report

// Set names generations of objects.
type Set struct {
	// Digest is that of the objects as they were read, or as they were compiled (source.Objects.Digest); "" before the first.
	Digest string `json:"digest"`
	// Except are those whose generation is another one than was read.
	Except []Exception `json:"except,omitempty"`
}

// Exception is an object that is served as it was, or not at all.
type Exception struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Generation that is served; 0 for none.
	Generation int64 `json:"generation,omitempty"`
}

// Serving are replicas that serve a Set.
type Serving struct {
	Set
	Replicas int `json:"replicas"`
}

// Rejection is a Set that Envoy refused on some replicas, which go on serving what they served.
type Rejection struct {
	Set
	Replicas int `json:"replicas"`
	// Reason is how Envoy put it.
	Reason string `json:"reason"`
}

// Partly are replicas that serve a version without some objects, which their Envoys refuse.
type Partly struct {
	Version  string // by its ID, or by the digest of the objects that it was compiled from
	Replicas int
	Refused  []Refused
}

// Refused is an object that an Envoy refuses.
type Refused struct {
	Object     source.ObjectRef
	UID        types.UID
	Generation int64 // that is refused
	Serves     int64 // generation that is served; 0 for none
	Reason     string
}

// Refusal is what Tracker.Report is told of replicas whose Envoy refused something.
type Refusal struct {
	Replicas int
	Reason   string
}

func (e Exception) key() string { return e.Kind + "/" + e.Namespace + "/" + e.Name }

// encode writes a report for an annotation.
func (r Report) encode() (string, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("a report cannot be written as JSON: %w", err)
	}
	return string(b), nil
}

// decode reads a report, and holds it to what one may say.
func decode(text string) (Report, error) {
	var r Report
	if len(text) > maxReport {
		return r, fmt.Errorf("a report has %d bytes, and may have %d", len(text), maxReport)
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Report{}, fmt.Errorf("a report is not JSON as it should be: %w", err)
	}
	for i := range r.Serving {
		if n := r.Serving[i].Replicas; n < 0 || n > 1e6 {
			return Report{}, fmt.Errorf("a report speaks of %d replicas", n)
		}
	}
	for i := range r.Rejected {
		if n := r.Rejected[i].Replicas; n < 0 || n > 1e6 {
			return Report{}, fmt.Errorf("a report speaks of %d replicas that refused something", n)
		}
		r.Rejected[i].Reason = plain(r.Rejected[i].Reason, maxReason)
	}
	for i := range r.Refused {
		if n := r.Refused[i].Replicas; n < 0 || n > 1e6 {
			return Report{}, fmt.Errorf("a report speaks of %d replicas that refuse an object", n)
		}
		r.Refused[i].Reason = plain(r.Refused[i].Reason, maxReason)
	}
	return r, nil
}

// plain makes a text fit for one line of at most max bytes.
func plain(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) <= max {
		return s
	}
	s = s[:max-len("…")]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
