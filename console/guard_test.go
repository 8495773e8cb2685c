package console

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
