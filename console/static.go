package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

//go:embed all:static
var embedded embed.FS

// kinds are the content types of the page's files. They are not the system's, which differ.
var kinds = map[string]string{
	".html":        "text/html; charset=utf-8",
	".css":         "text/css; charset=utf-8",
	".js":          "text/javascript; charset=utf-8",
	".mjs":         "text/javascript; charset=utf-8",
	".json":        "application/json",
	".map":         "application/json",
	".svg":         "image/svg+xml",
	".png":         "image/png",
	".ico":         "image/x-icon",
	".woff2":       "font/woff2",
	".webmanifest": "application/manifest+json",
	".txt":         "text/plain; charset=utf-8",
	".md":          "text/plain; charset=utf-8",
	"":             "text/plain; charset=utf-8", // LICENSE and the like
}

// packed are the kinds that gzip makes smaller.
func packed(kind string) bool {
	return strings.HasPrefix(kind, "text/") || strings.HasPrefix(kind, "application/") || kind == "image/svg+xml"
}

// static serves the page's files. They never change while the process runs.
type static struct{ files map[string]*file } // by the path of the URL

type file struct {
	kind string
	tag  string // of HTTP, without the quotes
	text []byte
	gzip func() []byte // made when it is asked for first; nil where it would not be smaller
}

// newStatic reads the folder "static".
func newStatic(from fs.FS) (*static, error) {
	s := &static{files: map[string]*file{}}
	err := fs.WalkDir(from, "static", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		kind, ok := kinds[strings.ToLower(path.Ext(name))]
		if !ok {
			return fmt.Errorf("%s: no content type is known for %q", name, path.Ext(name))
		}
		sum := sha256.Sum256(text)
		f := &file{kind: kind, tag: base64.RawURLEncoding.EncodeToString(sum[:12]), text: text}
		if packed(kind) {
			f.gzip = sync.OnceValue(func() []byte { return pack(text) })
		}
		s.files[strings.TrimPrefix(name, "static")] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the files of the console cannot be read: %w", err)
	}
	return s, nil
}

func pack(text []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is in range
	_, _ = w.Write(text)                                  // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// ServeHTTP serves a file. Browsers keep it and ask whether it has changed, which is cheap and right after every update.
func (s *static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("allow", "GET, HEAD")
		refuse(w, r, http.StatusMethodNotAllowed, "Not allowed", "The page can only be read.")
		return
	}
	name := r.URL.Path
	if name == "/" {
		name = "/index.html"
	}
	f := s.files[name]
	if f == nil {
		refuse(w, r, http.StatusNotFound, "Not found", "There is nothing at this address.")
		return
	}
	h := w.Header()
	h.Set("content-type", f.kind)
	h.Set("cache-control", "no-cache")
	text, tag := f.text, f.tag
	if f.gzip != nil {
		h.Set("vary", "accept-encoding")
		if AcceptsGzip(r.Header) {
			h.Set("content-encoding", "gzip")
			text, tag = f.gzip(), tag+"-gzip"
		}
	}
	h.Set("etag", `"`+tag+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}

// AcceptsGzip says whether a request with these headers takes an answer in gzip: it names it, and not with the weight 0.
func AcceptsGzip(h http.Header) bool {
	for item := range strings.SplitSeq(strings.Join(h.Values("accept-encoding"), ","), ",") {
		name, weight, _ := strings.Cut(item, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q := strings.ReplaceAll(strings.ToLower(weight), " ", "")
			return strings.Trim(strings.TrimPrefix(q, "q="), "0.") != "" || q == ""
		}
	}
	return false
}
