package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

// editKey sets one field of an APIKey's spec in a file and leaves all else as it is written, comments included.
func editKey(path, namespace, name, field string, value any) error {
	real, err := filepath.EvalSymlinks(path) // the file is replaced, not a link to it
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(real)
	if err != nil {
		return err
	}
	after, err := setSpecField(before, namespace, name, field, value)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(before, after) {
		return nil
	}
	return replaceFile(real, after, info.Mode().Perm())
}

var errByHand = errors.New("the document is written in a way that cannot be edited here; set the field by hand")

// setSpecField changes the text of YAML or JSON documents. What it makes is read again and compared, so that nothing but the field
// can change.
func setSpecField(raw []byte, namespace, name, field string, value any) ([]byte, error) {
	docs, err := readDocuments(raw)
	if err != nil {
		return nil, err
	}
	spec, err := findSpec(docs, namespace, name)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(value) // a JSON scalar is one of YAML
	if err != nil {
		return nil, err
	}
	quote := func(s string) string { return s }
	if len(bytes.TrimSpace(raw)) > 0 && bytes.TrimSpace(raw)[0] == '{' {
		quote = func(s string) string { return `"` + s + `"` }
	}
	var out []byte
	if node := valueOf(spec, field); node != nil {
		out, err = replaceScalar(raw, node, string(text))
	} else {
		out, err = insertField(raw, spec, quote(field)+": "+string(text))
	}
	if err != nil {
		return nil, err
	}
	return out, sameButFor(raw, out, namespace, name, field, value)
}

func readDocuments(raw []byte) ([]*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var docs []*yaml.Node
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		if len(doc.Content) > 0 {
			docs = append(docs, doc.Content[0])
		}
	}
}

// findSpec finds the spec of the one APIKey of that name, in a document or in a List.
func findSpec(docs []*yaml.Node, namespace, name string) (*yaml.Node, error) {
	var found []*yaml.Node
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		if items := valueOf(n, "items"); items != nil && items.Kind == yaml.SequenceNode {
			for _, item := range items.Content {
				look(item)
			}
		}
		meta := valueOf(n, "metadata")
		if text(valueOf(n, "kind")) != "APIKey" || text(valueOf(meta, "name")) != name {
			return
		}
		if ns := text(valueOf(meta, "namespace")); ns == namespace || ns == "" && namespace == "default" {
			found = append(found, valueOf(n, "spec"))
		}
	}
	for _, d := range docs {
		look(d)
	}
	if len(found) != 1 || found[0] == nil || found[0].Kind != yaml.MappingNode || len(found[0].Content) == 0 {
		return nil, errByHand
	}
	return found[0], nil
}

func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// offsetOf finds a node in the text. Columns count characters.
func offsetOf(raw []byte, n *yaml.Node) (int, error) {
	at := 0
	for line := 1; line < n.Line; line++ {
		next := bytes.IndexByte(raw[at:], '\n')
		if next < 0 {
			return 0, errByHand
		}
		at += next + 1
	}
	if n.Line == 1 && bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")) {
		at += 3
	}
	for column := 1; column < n.Column; column++ {
		_, size := utf8.DecodeRune(raw[at:])
		if size == 0 {
			return 0, errByHand
		}
		at += size
	}
	return at, nil
}

// replaceScalar writes another value in place of one that stands on one line.
func replaceScalar(raw []byte, n *yaml.Node, value string) ([]byte, error) {
	at, err := offsetOf(raw, n)
	if err != nil {
		return nil, err
	}
	if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Style&(yaml.TaggedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return nil, errByHand
	}
	length := len(n.Value)
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0:
		length += 2
		if !bytes.HasPrefix(raw[at:], []byte(`"`+n.Value+`"`)) {
			return nil, errByHand
		}
	case n.Style&yaml.SingleQuotedStyle != 0:
		length += 2
		if !bytes.HasPrefix(raw[at:], []byte(`'`+n.Value+`'`)) {
			return nil, errByHand
		}
	case !bytes.HasPrefix(raw[at:], []byte(n.Value)):
		return nil, errByHand
	}
	return splice(raw, at, at+length, value), nil
}

// insertField writes a field in front of the first one of a mapping.
func insertField(raw []byte, spec *yaml.Node, field string) ([]byte, error) {
	first := spec.Content[0]
	at, err := offsetOf(raw, first)
	if err != nil {
		return nil, err
	}
	if spec.Style&yaml.FlowStyle != 0 {
		return splice(raw, at, at, field+", "), nil
	}
	begin := bytes.LastIndexByte(raw[:at], '\n') + 1
	indent := raw[begin:at]
	if len(bytes.Trim(indent, " ")) > 0 {
		return nil, errByHand
	}
	newline := "\n"
	if begin > 1 && raw[begin-2] == '\r' {
		newline = "\r\n"
	}
	return splice(raw, at, at, field+newline+string(indent)), nil
}

func splice(raw []byte, from, to int, s string) []byte {
	out := make([]byte, 0, len(raw)+len(s))
	out = append(out, raw[:from]...)
	out = append(out, s...)
	return append(out, raw[to:]...)
}

// sameButFor says whether two texts mean the same but for the field.
func sameButFor(before, after []byte, namespace, name, field string, value any) error {
	decode := func(raw []byte, set bool) ([]any, error) {
		docs, err := readDocuments(raw)
		if err != nil {
			return nil, err
		}
		spec, err := findSpec(docs, namespace, name)
		if err != nil {
			return nil, err
		}
		if set {
			var node yaml.Node
			if err := node.Encode(value); err != nil {
				return nil, err
			}
			if old := valueOf(spec, field); old != nil {
				*old = node
			} else {
				spec.Content = append(spec.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: field}, &node)
			}
		}
		out := make([]any, len(docs))
		for i, d := range docs {
			if err := d.Decode(&out[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	want, err := decode(before, true)
	if err != nil {
		return errByHand
	}
	got, err := decode(after, false)
	if err != nil || !reflect.DeepEqual(got, want) {
		return errByHand
	}
	return nil
}

// createFile writes a new file, whole or not at all. It is an error where there is one already.
func createFile(path string, content []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(path, content, mode)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	// A link, unlike a renaming, does not take the place of what is there.
	err = os.Link(tmp, path)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links
		if _, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(tmp, path)
		}
		err = fs.ErrExist
	}
	if err != nil {
		return fmt.Errorf("%s exists already; choose another name or file", path)
	}
	return nil
}

// replaceFile puts a file in the place of another, so that a reader sees the one or the other.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(path, content, mode)
	if err != nil {
		return err
	}
	if err = os.Chmod(tmp, mode); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// writeTemp writes beside path, under a hidden name that no reader of the folder takes for a document.
func writeTemp(path string, content []byte, mode fs.FileMode) (string, error) {
	tmp := filepath.Join(filepath.Dir(path), "."+strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))+"-"+rand.Text()[:12]+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if bad := f.Close(); err == nil {
		err = bad
	}
	if err != nil {
		os.Remove(tmp)
		return "", err
	}
	return tmp, nil
}
