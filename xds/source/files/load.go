// Package files reads Weir's objects from a folder, and watches it.
//
// Every *.yaml, *.yml and *.json below the folder counts, hidden ones and those that an object names as a
// value (a key set, a secret) excepted. A document is validated as a
// Kubernetes API server would validate it, and every problem is told with file, line and field.
package files

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/weir-dev/weir/api/schema"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

// Env looks up an environment variable, as os.LookupEnv does.
type Env = func(name string) (value string, found bool)

// Load reads the folder dir (or a single file) once. It returns every object that is valid and every
// problem that was found; a caller uses the objects only when no problem is an Error. The objects are
// sorted, and relative paths of files in them are resolved against the folder of their document.
func Load(dir string, env Env) (*source.Objects, []source.Problem) {
	r := newLoader(dir, env).load()
	return r.objects, r.problems
}

// Manifests reads the folder dir (or a single file) as what is to be applied to a cluster: objects may name what a cluster alone has, nothing that
// they point to is read, and no environment variable is looked at.
func Manifests(dir string) (*source.Objects, []source.Problem) {
	l := newLoader(dir, func(string) (string, bool) { return "", false })
	l.manifests = true
	r := l.load()
	return r.objects, r.problems
}

// loader reads a folder again and again. It is used by one goroutine at a time.
type loader struct {
	dir       string
	env       Env
	manifests bool // of a cluster
	validator func() (*schema.Validator, error)
}

func newLoader(dir string, env Env) *loader {
	return &loader{dir: dir, env: env, validator: sync.OnceValues(schema.New)}
}

// result is one consistent reading of the folder.
type result struct {
	objects  *source.Objects
	problems []source.Problem

	tree        tree
	secrets     []secretFile      // the files that objects point to
	empty       bool              // some document file holds nothing but white space
	readAt      time.Time         // when reading began, by the clock of the file system's machine
	fingerprint [sha256.Size]byte // of everything that was read
}

// attempts to read a folder that does not change meanwhile. A folder that changes all the time is read as it
// is: the next event brings the next reading.
const attempts = 5

// load reads the folder. When files change while they are read (a ConfigMap being swapped, an editor writing)
// it reads again, so that old and new files do not mix and a file that is gone is no error.
func (l *loader) load() result {
	for attempt := 1; ; attempt++ {
		r := l.loadOnce()
		if attempt == attempts || (scan(l.dir).same(r.tree) && sameSecrets(r.secrets)) {
			return r
		}
	}
}

func (l *loader) loadOnce() result {
	r := result{tree: scan(l.dir), readAt: time.Now()}
	l.build(&r, func(b *builder) {
		for _, p := range r.tree.problems {
			r.problems = append(r.problems, source.Problem{File: p.file, Message: p.message})
		}
		for _, f := range r.tree.files {
			b.file(f)
		}
		b.leaveOutNamed()
		if b.documents == 0 && len(r.problems) == 0 {
			r.problems = append(r.problems, source.Problem{File: l.dir,
				Message: "no documents found: put *.yaml, *.yml or *.json files with Weir objects here"})
		}
		if !l.manifests {
			b.secrets()
		}
	})
	return r
}

// loadBytes reads the content of one file, without the values that its objects point to.
func (l *loader) loadBytes(name string, raw []byte) result {
	var r result
	l.build(&r, func(b *builder) { b.bytes(entry{path: name, rel: name}, raw) })
	return r
}

// build lets add fill r, and finishes it.
func (l *loader) build(r *result, add func(*builder)) {
	r.objects = source.NewObjects()
	b := builder{loader: l, result: r, digest: sha256.New(), holders: map[string]bool{}, named: map[string]bool{}}
	var err error
	if b.validator, err = l.validator(); err != nil {
		r.problems = append(r.problems, source.Problem{Message: "the program's own schemas are broken: " + err.Error()})
		return
	}
	add(&b)
	r.objects.Sort()
	source.SortProblems(r.problems)
	for _, p := range r.problems {
		fmt.Fprintln(b.digest, p.Severity, p)
	}
	b.digest.Sum(r.fingerprint[:0])
}

// sameSecrets says whether the files that objects point to are as they were when they were read.
func sameSecrets(files []secretFile) bool {
	for _, f := range files {
		info, _ := os.Stat(f.path)
		if !sameInfo(f.info, info) {
			return false
		}
	}
	return true
}

// file reads one file and adds its objects.
func (b *builder) file(f entry) {
	raw, err := reading.File(f.path, maxFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return // removed a moment ago
	}
	if err != nil {
		b.result.problems = append(b.result.problems, source.Problem{File: f.rel, Message: "the file cannot be read: " + reading.Cause(err)})
		return
	}
	fmt.Fprintf(b.digest, "%d:%s%d:", len(f.rel), f.rel, len(raw))
	b.digest.Write(raw)
	b.result.empty = b.result.empty || len(bytes.TrimSpace(raw)) == 0
	b.bytes(f, raw)
}
