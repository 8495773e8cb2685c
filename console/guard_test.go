package console

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// TestNothingBelowTheAPI: what is not there is said in the form of everything below /api.
func TestNothingBelowTheAPI(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, "well") })
	for _, c := range []struct {
		method, path, allow string
		status              int
	}{
		{"GET", "/api/status", "", 200},
		{"GET", "/api/nope", "", 404},
		{"GET", "/api", "", 404},
		{"POST", "/api/status", "GET, HEAD", 405},
		{"PATCH", "/api/session", "DELETE, GET, HEAD, POST", 405},
		{"GET", "/api/session/nope", "", 404},
	} {
		r := newRig(t, nil)
		w := httptest.NewRecorder()
		req := httptest.NewRequest(c.method, "http://localhost"+c.path, nil)
		r.Handler(mux).ServeHTTP(w, req)
		var body errorBody
		if w.Code != c.status || w.Header().Get("content-type") != "application/json" || w.Header().Get("allow") != c.allow {
			t.Errorf("%s %s: %d %v", c.method, c.path, w.Code, w.Header())
		}
		if c.status != 200 && (json.Unmarshal(w.Body.Bytes(), &body) != nil || body.Error == "") {
			t.Errorf("%s %s: %s", c.method, c.path, w.Body)
		}
	}
}

// TestPathsAreExact: a path that means another one is not sent on to that: erasing one thing must not become erasing all of them.
func TestPathsAreExact(t *testing.T) {
	var reached string
	mux := http.NewServeMux()
	for _, pattern := range []string{"DELETE /api/sessions", "GET /api/sessions", "DELETE /api/sessions/{id}", "POST /api/cache/purge"} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { reached = pattern + " " + r.PathValue("id") })
	}
	for _, c := range []struct{ method, path, reaches string }{
		{"DELETE", "/api/sessions/.", ""},
		{"DELETE", "/api/sessions/..", ""},
		{"DELETE", "/api/sessions/./", ""},
		{"DELETE", "/api/sessions/x/..", ""},
		{"DELETE", "/api/sessions//", ""},
		{"DELETE", "/api/sessions/", ""},
		{"DELETE", "/api//sessions", ""},
		{"GET", "/api/sessions/.", ""},
		{"POST", "/api/cache//purge", ""},
		{"POST", "/api/cache/x/../purge", ""},
		{"POST", "/api/sessions/../cache/purge", ""},
		{"POST", "//api/cache/purge", ""},
		{"DELETE", "/x/../api/sessions", ""},
		{"DELETE", "/api/sessions/%2e", "DELETE /api/sessions/{id} ."}, // of which there is none
		{"DELETE", "/api/sessions/a%2F..%2Fb", "DELETE /api/sessions/{id} a/../b"},
		{"DELETE", "/api/sessions/a%2F%2F", "DELETE /api/sessions/{id} a//"},
		{"DELETE", "/api/sessions", "DELETE /api/sessions "},
		{"POST", "/api/cache/purge", "POST /api/cache/purge "},
	} {
		reached = ""
		w := httptest.NewRecorder()
		req := httptest.NewRequest(c.method, "http://localhost/", nil)
		var err error
		if req.URL, err = url.ParseRequestURI(c.path); err != nil {
			t.Fatal(err)
		}
		newRig(t, nil).Handler(mux).ServeHTTP(w, req)
		if reached != c.reaches || w.Header().Get("location") != "" || c.reaches == "" && (w.Code < 400 || w.Code >= 500) {
			t.Errorf("%s %s: %d %v, it reached %q", c.method, c.path, w.Code, w.Header(), reached)
		}
	}
}
