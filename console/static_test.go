package console

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func get(s http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestStatic(t *testing.T) {
	script := strings.Repeat("export const answer = 42;\n", 100)
	s, err := newStatic(fstest.MapFS{
		"static/index.html": {Data: []byte("<!doctype html>")}, "static/js/app.js": {Data: []byte(script)}, "static/img/dot.png": {Data: []byte("\x89PNG")},
		"static/LICENSE": {Data: []byte("free")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/index.html": "text/html; charset=utf-8", "/js/app.js": "text/javascript; charset=utf-8",
		"/img/dot.png": "image/png", "/LICENSE": "text/plain; charset=utf-8",
	} {
		w := get(s, path)
		if w.Code != 200 || w.Header().Get("content-type") != kind || w.Header().Get("cache-control") != "no-cache" || w.Header().Get("etag") == "" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		if w.Header().Get("content-encoding") != "" {
			t.Errorf("%s is packed for who cannot unpack it", path)
		}
	}
	plain := get(s, "/js/app.js")
	packed := get(s, "/js/app.js", "accept-encoding", "br, gzip;q=0.8")
	if packed.Header().Get("content-encoding") != "gzip" || packed.Header().Get("vary") != "accept-encoding" || packed.Body.Len() >= len(script)/2 || packed.Header().Get("etag") == plain.Header().Get("etag") {
		t.Errorf("packed: %v, %d bytes", packed.Header(), packed.Body.Len())
	}
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != script {
		t.Errorf("unpacked: %v", err)
	}
	if w := get(s, "/js/app.js", "accept-encoding", "gzip;q=0"); w.Header().Get("content-encoding") != "" {
		t.Error("packed for who refuses it")
	}
	if w := get(s, "/img/dot.png", "accept-encoding", "gzip"); w.Header().Get("content-encoding") != "" {
		t.Error("a picture is packed twice")
	}
	if w := get(s, "/js/app.js", "if-none-match", plain.Header().Get("etag")); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("unchanged: %d", w.Code)
	}
	for _, path := range []string{"/js/", "/js", "/nothing", "/static/index.html", "/..", "/js/../index.html"} {
		if w := get(s, path); w.Code != 404 {
			t.Errorf("%s: status %d", path, w.Code)
		}
	}
	if _, err := newStatic(fstest.MapFS{"static/x.exe": {}}); err == nil || !strings.Contains(err.Error(), "x.exe") {
		t.Errorf("a file of no known kind: %v", err)
	}
}

// TestPageObeysItsPolicy: nothing inline, and nothing from elsewhere.
func TestPageObeysItsPolicy(t *testing.T) {
	s, err := newStatic(embedded)
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	for path, f := range s.files {
		if !strings.HasSuffix(path, ".html") {
			continue
		}
		pages++
		page := strings.ToLower(string(f.text))
		for _, bad := range []string{"<style", " style=", " onclick=", " onload=", "javascript:", "src=\"http", "src=\"//", "rel=\"stylesheet\" href=\"http"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s has %s", path, bad)
			}
		}
		for rest := page; ; {
			_, after, found := strings.Cut(rest, "<script")
			if !found {
				break
			}
			tag, body, _ := strings.Cut(after, ">")
			if text, _, _ := strings.Cut(body, "</script>"); !strings.Contains(tag, "src=") || strings.TrimSpace(text) != "" {
				t.Errorf("%s has an inline script: <script%s>", path, tag)
			}
			rest = body
		}
	}
	if pages == 0 {
		t.Error("there is no page")
	}
}
