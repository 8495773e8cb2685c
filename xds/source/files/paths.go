package files

import (
	"os"
	"path/filepath"
	"strings"
)

// maxLinks bounds symbolic links that lead in circles, as the kernel does.
const maxLinks = 40

// watchPoint is a name in a folder whose change can change what a path leads to.
type watchPoint struct {
	dir, name string
}

// watchPoints lists what decides where path leads: each symbolic link on the way, the file itself, and where
// the way is broken the first name that is missing. A ConfigMap or Secret swaps a link in the middle of the
// way, an editor renames over the file at its end, and a folder may come into being later.
func watchPoints(path string) []watchPoint {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var points []watchPoint
	done, rest := splitRoot(abs)
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		full := filepath.Join(done, name)
		info, err := os.Lstat(full)
		if err != nil || len(rest) == 0 {
			points = append(points, watchPoint{done, name})
		}
		if err != nil {
			return points
		}
		if info.Mode()&os.ModeSymlink == 0 {
			done = full
			continue
		}
		if len(rest) > 0 {
			points = append(points, watchPoint{done, name})
		}
		target, err := os.Readlink(full)
		if links++; err != nil || links > maxLinks {
			return points
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(done, target)
		}
		var parts []string
		done, parts = splitRoot(filepath.Clean(target))
		rest = append(parts, rest...)
	}
	return points
}

// splitRoot splits an absolute path into its root and its names.
func splitRoot(abs string) (root string, names []string) {
	volume := filepath.VolumeName(abs)
	root = volume + string(filepath.Separator)
	for _, n := range strings.Split(abs[len(volume):], string(filepath.Separator)) {
		if n != "" {
			names = append(names, n)
		}
	}
	return root, names
}
