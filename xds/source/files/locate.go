package files

import (
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// locate returns the line of a field path below root, or of the nearest field around it that is written.
// Paths come from several libraries: keys of a map follow a dot or stand in brackets, and may hold dots.
func locate(root *yaml.Node, path string) int {
	l := locator{steps: maxLocateSteps}
	line, _ := l.find(root, path, root.Line)
	return line
}

// maxLocateSteps bounds aliases and merges that multiply or lead in circles.
const maxLocateSteps = 10_000

type locator struct {
	steps int // left
}

// find returns the line of the deepest node on path and how much of the path was not found.
func (l *locator) find(n *yaml.Node, path string, line int) (int, int) {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if l.steps--; path == "" || l.steps < 0 {
		return line, len(path)
	}
	bestLine, bestRest := line, len(path)
	try := func(child *yaml.Node, rest string, at int) {
		if found, left := l.find(child, rest, at); left < bestRest {
			bestLine, bestRest = found, left
		}
	}
	switch n.Kind {
	case yaml.SequenceNode:
		index, rest, ok := cutIndex(path)
		if ok && index < len(n.Content) {
			try(n.Content[index], rest, n.Content[index].Line)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if rest, ok := cutKey(path, k.Value); ok && !isMerge(k) {
				try(v, rest, k.Line)
			}
		}
		if bestRest == len(path) {
			for i := 0; i+1 < len(n.Content); i += 2 {
				if isMerge(n.Content[i]) {
					for _, source := range mergeNodes(n.Content[i+1]) {
						try(source, path, line)
					}
				}
			}
		}
	}
	return bestLine, bestRest
}

func mergeNodes(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

// cutKey takes key off the front of path: "a.b[0]" without "a" is "b[0]", "[a.b]" without "a.b" is "".
func cutKey(path, key string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(path, "["+key+"]"); ok {
		return strings.TrimPrefix(rest, "."), true
	}
	if rest, ok = strings.CutPrefix(path, key); !ok {
		return "", false
	}
	if rest == "" || rest[0] == '[' {
		return rest, true
	}
	return strings.CutPrefix(rest, ".")
}

// cutIndex takes "[3]" off the front of path. Some libraries write list items as ".3" or "[3]".
func cutIndex(path string) (index int, rest string, ok bool) {
	digits := strings.TrimPrefix(path, "[")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(digits)
	}
	index, err := strconv.Atoi(digits[:end])
	if err != nil {
		return 0, "", false
	}
	rest = strings.TrimPrefix(strings.TrimPrefix(digits[end:], "]"), ".")
	return index, rest, true
}
