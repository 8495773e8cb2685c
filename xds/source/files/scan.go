package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-dev/weir/xds/source/internal/reading"
)

// Limits that keep a wrong folder (a home directory, a disk) from being read into memory.
const (
	maxFileBytes = 16 << 20
	maxFiles     = 10_000
	maxDirs      = 10_000
)

// entry is one document file as a scan found it.
type entry struct {
	path string // dir joined with rel
	rel  string // relative to the folder, with slashes
	info fs.FileInfo
}

// tree is what a scan found: the files to read and the folders that hold them.
type tree struct {
	root     string
	files    []entry  // in the order of rel
	dirs     []string // the real folders, root first
	problems []fileError
}

// fileError is a problem of a file or folder that could not be read.
type fileError struct {
	file    string
	message string
}

// scan lists the documents below root. Hidden files and folders are left out; so of a Kubernetes ConfigMap
// mount, where routes.yaml -> ..data/routes.yaml and ..data -> ..2026_01_31_12_00_00.123, only the visible
// names are read. A file or folder that several names lead to is read once, under the first of them.
func scan(root string) tree {
	t := tree{root: root}
	s := scanner{tree: &t, seen: map[string]bool{}}
	info, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.problems = append(t.problems, fileError{root, "the folder does not exist"})
	case err != nil:
		t.problems = append(t.problems, fileError{root, "the folder cannot be read: " + reading.Cause(err)})
	case info.IsDir():
		s.dir(root, "")
	default:
		s.file(root, filepath.Base(root))
	}
	slices.SortFunc(t.files, func(a, b entry) int { return strings.Compare(a.rel, b.rel) })
	return t
}

type scanner struct {
	tree *tree
	seen map[string]bool // real paths
	full bool
}

func (s *scanner) fail(rel, format string, args ...any) {
	if rel == "" {
		rel = s.tree.root
	}
	s.tree.problems = append(s.tree.problems, fileError{rel, fmt.Sprintf(format, args...)})
}

// first says whether path leads to something that was not seen yet.
func (s *scanner) first(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return true // reading it will say what is wrong
	}
	if s.seen[real] {
		return false
	}
	s.seen[real] = true
	return true
}

func (s *scanner) dir(path, rel string) {
	if s.full || !s.first(path) {
		return
	}
	if len(s.tree.dirs) >= maxDirs {
		s.full = true
		s.fail("", "more than %d folders: is this the right folder?", maxDirs)
		return
	}
	s.tree.dirs = append(s.tree.dirs, path)
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.fail(rel, "the folder cannot be read: %s", reading.Cause(err))
	}
	var folders []string
	for _, e := range entries { // files first, so that a link inside a sub-folder is the second name
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		p, r := filepath.Join(path, name), joinSlash(rel, name)
		mode := e.Type()
		if mode&fs.ModeSymlink != 0 {
			info, err := os.Stat(p)
			if err != nil {
				if isDocument(name) {
					s.fail(r, "the link leads nowhere: %s", reading.Cause(err))
				}
				continue
			}
			mode = info.Mode().Type()
		}
		switch {
		case mode.IsDir():
			folders = append(folders, name)
		case isDocument(name):
			s.file(p, r)
		}
	}
	for _, name := range folders {
		s.dir(filepath.Join(path, name), joinSlash(rel, name))
	}
}

func (s *scanner) file(path, rel string) {
	if s.full || !s.first(path) {
		return
	}
	if len(s.tree.files) >= maxFiles {
		s.full = true
		s.fail("", "more than %d files: is this the right folder?", maxFiles)
		return
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // removed a moment ago
	case err != nil:
		s.fail(rel, "the file cannot be read: %s", reading.Cause(err))
	case !info.Mode().IsRegular():
		s.fail(rel, "this is not a regular file")
	default:
		s.tree.files = append(s.tree.files, entry{path: path, rel: rel, info: info})
	}
}

func isDocument(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func joinSlash(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

// same says whether two scans found the same files in the same state.
func (t tree) same(other tree) bool {
	return slices.Equal(t.dirs, other.dirs) && slices.Equal(t.problems, other.problems) &&
		slices.EqualFunc(t.files, other.files, func(a, b entry) bool { return a.rel == b.rel && sameInfo(a.info, b.info) })
}

// sameInfo says whether a file looks untouched. nil stands for a file that is not there.
func sameInfo(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}
