package envoy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// adminTimeout bounds one call of the admin interface. Answers come from Envoy's main thread, which a
// large configuration update can hold for a second.
const adminTimeout = 5 * time.Second

// adminMaxBody bounds what is read of an answer; the largest, a configuration dump of thousands of
// clusters, has some tens of MB.
const adminMaxBody = 256 << 20

// NotReadyError says that Envoy lives but does not serve.
type NotReadyError struct {
	// State is Envoy's word for it: PRE_INITIALIZING, INITIALIZING or DRAINING.
	State string
}

func (e *NotReadyError) Error() string { return "Envoy is not ready: its state is " + e.State }

// AdminError is an answer of the admin interface that is not a success.
type AdminError struct {
	Path   string
	Status int
	Body   string // its first line
}

func (e *AdminError) Error() string {
	return fmt.Sprintf("Envoy's admin interface answered %d to %s: %s", e.Status, e.Path, e.Body)
}

// UnreachableError says that nothing answered on the admin socket, or not in time.
type UnreachableError struct {
	Socket string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("Envoy's admin socket %s does not answer: %v", e.Socket, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Admin is a client of Envoy's admin interface on a unix socket. Its methods may be called from
// several goroutines; a call without a nearer deadline ends after 5 s. Errors are *NotReadyError,
// *AdminError or *UnreachableError.
type Admin struct {
	socket string
	client *http.Client
}

// NewAdmin returns a client for the socket at that path; nothing is dialled yet.
func NewAdmin(socket string) *Admin {
	return &Admin{
		socket: socket,
		client: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			// Calls are rare, and a kept connection would belong to an Envoy that may have been replaced.
			DisableKeepAlives: true,
		}},
	}
}

// Ready returns nil when Envoy serves: it has its configuration and is not draining.
func (a *Admin) Ready(ctx context.Context) error {
	body, err := a.call(ctx, http.MethodGet, "/ready", nil)
	var ae *AdminError
	if errors.As(err, &ae) && ae.Status == http.StatusServiceUnavailable {
		return &NotReadyError{State: ae.Body}
	}
	if err == nil && strings.TrimSpace(string(body)) != "LIVE" {
		return &NotReadyError{State: firstLine(string(body))}
	}
	return err
}

// Version returns the version of the running Envoy.
func (a *Admin) Version(ctx context.Context) (Version, error) {
	body, err := a.call(ctx, http.MethodGet, "/server_info", nil)
	if err != nil {
		return Version{}, err
	}
	var info struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return Version{}, fmt.Errorf("Envoy's /server_info is not the JSON expected: %w", err)
	}
	return ParseVersion(info.Version)
}

// Stats returns the counters and gauges whose name matches the regular expression (RE2); all of them
// when it is empty.
func (a *Admin) Stats(ctx context.Context, filter string) (map[string]uint64, error) {
	q := url.Values{}
	if filter != "" {
		q.Set("filter", filter)
	}
	return a.stats(ctx, q)
}

func (a *Admin) stats(ctx context.Context, q url.Values) (map[string]uint64, error) {
	q.Set("format", "json")
	body, err := a.call(ctx, http.MethodGet, "/stats", q)
	if err != nil {
		return nil, err
	}
	return parseStats(body)
}

// parseStats reads Envoy's /stats?format=json: {"stats": [{"name": ..., "value": ...}, ...]}, where
// text readouts have a string for a value and histograms are an element without a name.
func parseStats(body []byte) (map[string]uint64, error) {
	var doc struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("Envoy's /stats is not the JSON expected: %w", err)
	}
	out := make(map[string]uint64, len(doc.Stats))
	for _, s := range doc.Stats {
		var n uint64
		if s.Name == "" || json.Unmarshal(s.Value, &n) != nil {
			continue
		}
		out[s.Name] = n
	}
	return out, nil
}

// ActiveRequests returns the number of requests in flight on all listeners, without the admin
// interface's own.
func (a *Admin) ActiveRequests(ctx context.Context) (int, error) {
	stats, err := a.Stats(ctx, `^http\..*\.downstream_rq_active$`)
	if err != nil {
		return 0, err
	}
	return sumActive(stats), nil
}

func sumActive(stats map[string]uint64) int {
	var sum uint64
	for name, n := range stats {
		if !strings.HasPrefix(name, "http.admin.") && strings.HasSuffix(name, ".downstream_rq_active") {
			sum += n
		}
	}
	return int(sum)
}

// The gauges of what is not in use yet.
const (
	warmingClusters  = "cluster_manager.warming_clusters"
	warmingListeners = "listener_manager.total_listeners_warming"
)

// Warming returns the number of clusters and listeners that Envoy knows but does not use yet, because
// their endpoints, routes or secrets have not arrived.
//
// Envoy's main thread writes out the name of each statistic that may be asked for before it looks at
// it, so what is asked for is little: gauges that have been set. With 1,000 clusters and 10,000 routes
// that takes it 16 ms, and all statistics 160.
func (a *Admin) Warming(ctx context.Context) (int, error) {
	stats, err := a.stats(ctx, url.Values{
		"type": {"Gauges"}, "usedonly": {""},
		"filter": {`^(` + regexp.QuoteMeta(warmingClusters) + `|` + regexp.QuoteMeta(warmingListeners) + `)$`},
	})
	if err != nil {
		return 0, err
	}
	clusters, ok := stats[warmingClusters]
	if !ok { // it is set when Envoy starts
		return 0, fmt.Errorf("Envoy's /stats has no %s", warmingClusters)
	}
	return int(clusters + stats[warmingListeners]), nil // before the first listener there is none of them
}

// ConfigDump returns the configuration that Envoy runs, as JSON, with its endpoints if asked for.
// Envoy itself blanks what its protos mark as sensitive, such as private keys; header values that a
// route adds are not among that, so the dump is not for logs.
func (a *Admin) ConfigDump(ctx context.Context, endpoints bool) ([]byte, error) {
	q := url.Values{}
	if endpoints {
		q.Set("include_eds", "")
	}
	return a.call(ctx, http.MethodGet, "/config_dump", q)
}

// FailHealthChecks makes Envoy answer /ready with 503, and ask its clients to open no further request
// on the connections they have: `connection: close` in HTTP/1.1 answers, GOAWAY in HTTP/2.
func (a *Admin) FailHealthChecks(ctx context.Context) error {
	_, err := a.call(ctx, http.MethodPost, "/healthcheck/fail", nil)
	return err
}

// CloseListeners makes Envoy stop accepting connections at once; those it has live on. (With
// ?graceful it would go on accepting for --drain-time-s first; see drain.)
func (a *Admin) CloseListeners(ctx context.Context) error {
	_, err := a.call(ctx, http.MethodPost, "/drain_listeners", nil)
	return err
}

func (a *Admin) call(ctx context.Context, method, path string, q url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	// The host does not matter: the socket is fixed.
	u := url.URL{Scheme: "http", Host: "envoy-admin", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask Envoy's admin interface for %s: %w", path, err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		// url.Error repeats the made-up URL; what it wraps is the news.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, &UnreachableError{Socket: a.socket, Err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, adminMaxBody))
	if err != nil {
		return nil, &UnreachableError{Socket: a.socket, Err: err}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &AdminError{Path: path, Status: resp.StatusCode, Body: firstLine(string(body))}
	}
	return body, nil
}
