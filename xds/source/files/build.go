package files

import (
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/weir-dev/weir/api/schema"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

// builder turns files into objects and problems.
type builder struct {
	loader    *loader
	validator *schema.Validator
	result    *result
	digest    hash.Hash
	documents int
	holders   map[string]bool // document files (entry.rel) that hold an object of a known kind
	named     map[string]bool // resolved paths of the files that objects name
}

// bytes adds the documents of one file.
func (b *builder) bytes(f entry, raw []byte) {
	docs, errs := parseFile(f.rel, raw)
	b.lineErrors(f, source.ObjectRef{}, errs)
	b.documents += len(docs) + len(errs)
	c := &converter{} // one for the file: its limits are the file's
	for _, doc := range docs {
		b.document(f, c, doc)
	}
}

func (b *builder) lineErrors(f entry, ref source.ObjectRef, errs []lineError) {
	for _, e := range errs {
		p := source.Problem{Object: ref, Field: e.field, Message: e.message, File: f.rel, Line: e.line}
		if e.warning {
			p.Severity = source.Warning
		}
		b.result.problems = append(b.result.problems, p)
	}
}

// document adds the object, or the list of objects, below node.
func (b *builder) document(f entry, c *converter, node *yaml.Node) {
	if node.Kind == yaml.AliasNode && node.Alias != nil {
		node = node.Alias
	}
	if node.Kind != yaml.MappingNode {
		b.lineErrors(f, source.ObjectRef{}, []lineError{{line: node.Line,
			message: "a document must be a mapping with apiVersion, kind, metadata and spec"}})
		return
	}
	if items, ok := b.list(node); ok {
		b.items(f, c, node, items)
		return
	}
	if apiVersion := scalarField(node, "apiVersion"); b.validator.Foreign(apiVersion, scalarField(node, "kind")) {
		b.foreign(f, node, apiVersion)
		return
	}

	c.errs = nil
	value, _ := c.convert(node, "").(map[string]any)
	ref := refOf(value)
	b.note(f, ref.Kind, value)
	b.lineErrors(f, ref, c.errs)
	if slices.ContainsFunc(c.errs, func(e lineError) bool { return !e.warning }) {
		return // the schema would only repeat that a value is missing
	}
	if !b.loader.manifests {
		if !included(value, b.loader.env) {
			return
		}
		if err := expandURL(value, b.loader.env); err != nil {
			b.lineErrors(f, ref, []lineError{{line: locate(node, "spec.url"), field: "spec.url", message: err.Error()}})
			return
		}
	}
	defaulted, errs := b.validator.Validate(value)
	origin := source.NewOrigin(f.rel, node.Line, func(path string) int { return locate(node, path) })
	if len(errs) > 0 {
		for _, e := range errs {
			p := problemOf(ref, origin, e)
			if isKeySet(value) {
				p.Message += keySetHint
			}
			b.result.problems = append(b.result.problems, p)
		}
		return
	}
	ref = refOf(defaulted)
	obj, err := reading.Decode(ref.Kind, defaulted)
	if err == nil && !b.loader.manifests && b.unsupported(ref, origin, obj) {
		return
	}
	if err == nil {
		err = b.add(f, ref, origin, obj)
	}
	if err != nil {
		b.result.problems = append(b.result.problems,
			source.Problem{Object: ref, Message: err.Error(), File: f.rel, Line: node.Line})
	}
}

// foreign tells that an object of somebody else's is left out: folders that are applied to a cluster hold Secrets, Services and Deployments as well.
// Nothing of it is looked at but its name.
func (b *builder) foreign(f entry, node *yaml.Node, apiVersion string) {
	meta := mappingValue(node, "metadata")
	ref := source.ObjectRef{Kind: text(scalarField(node, "kind"))}
	if meta != nil {
		ref.Namespace, ref.Name = text(scalarField(meta, "namespace")), text(scalarField(meta, "name"))
	}
	b.result.problems = append(b.result.problems, source.Problem{Object: ref, File: f.rel, Line: node.Line, Severity: source.Warning,
		Message: fmt.Sprintf("left out: its apiVersion %s is not one of Weir's", text(apiVersion))})
}

// unsupported tells what of an object needs a cluster.
func (b *builder) unsupported(ref source.ObjectRef, origin *source.Origin, obj source.Object) bool {
	backend, ok := obj.(*v1alpha1.Backend)
	if !ok || !backend.Spec.Discovered() {
		return false
	}
	at, what := "spec.inferencePool", "an InferencePool"
	switch {
	case backend.Spec.Service != nil:
		at, what = "spec.service", "a Service"
	case backend.Spec.Selector != nil:
		at, what = "spec.selector", "a selector of Pods"
	}
	b.result.problems = append(b.result.problems, source.Problem{
		Object: ref, Field: at, File: origin.File, Line: origin.Locate(at), Reason: source.ReasonUnsupported,
		Message: "the servers of " + what + " are known in a cluster only, not from a folder: use url or endpoints",
	})
	return true
}

func (b *builder) add(f entry, ref source.ObjectRef, origin *source.Origin, obj source.Object) error {
	if first := b.result.objects.Origins[ref]; first != nil {
		return fmt.Errorf("defined twice: the first is at %s:%d; rename or remove one of them", first.File, first.Line)
	}
	// From here on paths mean the same whatever the object's own folder is.
	for _, r := range source.References(obj) {
		switch {
		case r.File != nil:
			*r.File = resolve(f, *r.File)
		case r.Ref.File != "":
			r.Ref.File = resolve(f, r.Ref.File)
		}
	}
	b.result.objects.Origins[ref] = origin
	return b.result.objects.Add(obj)
}

// resolve starts a relative path at the folder of the document.
func resolve(f entry, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(filepath.Dir(f.path), path)
}

// list recognises kind List of v1, and the List of each of Weir's kinds, and returns the node of its items.
func (b *builder) list(node *yaml.Node) (items *yaml.Node, ok bool) {
	kind, apiVersion := scalarField(node, "kind"), scalarField(node, "apiVersion")
	if kind == "List" && apiVersion == "v1" {
		return mappingValue(node, "items"), true
	}
	for _, k := range b.validator.Kinds() {
		if kind == k.Kind+"List" && apiVersion == k.APIVersion {
			return mappingValue(node, "items"), true
		}
	}
	return nil, false
}

func (b *builder) items(f entry, c *converter, list, items *yaml.Node) {
	if items != nil && items.Kind == yaml.AliasNode && items.Alias != nil {
		items = items.Alias
	}
	var errs []lineError
	switch {
	case items == nil:
		errs = append(errs, lineError{line: list.Line, field: "items", message: "a List needs items"})
	case items.Kind != yaml.SequenceNode:
		errs = append(errs, lineError{line: items.Line, field: "items", message: "must be a list of objects"})
	default:
		for _, item := range items.Content {
			kind := scalarField(item, "kind")
			if strings.HasSuffix(kind, "List") && !b.validator.Foreign(scalarField(item, "apiVersion"), kind) { // also what ends a list that holds itself
				errs = append(errs, lineError{line: item.Line, field: "items", message: "a List inside a List is not supported: put its items into the outer one"})
				continue
			}
			b.document(f, c, item)
		}
	}
	b.lineErrors(f, source.ObjectRef{Kind: scalarField(list, "kind")}, errs)
}

func mappingValue(n *yaml.Node, key string) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalarField(n *yaml.Node, key string) string {
	if v := mappingValue(n, key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// refOf names an object as far as it can be made out.
func refOf(obj map[string]any) source.ObjectRef {
	meta, _ := obj["metadata"].(map[string]any)
	ref := source.ObjectRef{Kind: text(obj["kind"]), Namespace: text(meta["namespace"]), Name: text(meta["name"])}
	if ref.Namespace == "" && ref.Name != "" {
		ref.Namespace = "default"
	}
	return ref
}

func text(v any) string {
	s, _ := v.(string)
	if len(s) > 253 { // longer than any name: do not fill the message with it
		return ""
	}
	return s
}

// problemOf says a validation error as a sentence.
func problemOf(ref source.ObjectRef, origin *source.Origin, e *field.Error) source.Problem {
	path := reading.Path(e)
	return source.Problem{Object: ref, Field: path, Message: reading.Message(e), File: origin.File, Line: origin.Locate(path)}
}

// secretFile is a file that objects point to.
type secretFile struct {
	path string
	info fs.FileInfo // nil where the file is not there
}

// secrets loads every value that the objects point to.
func (b *builder) secrets() {
	seen := map[string]bool{}
	for _, obj := range b.result.objects.All() {
		ref := source.RefOf(obj)
		for _, r := range source.References(obj) {
			var key source.SecretKey
			var value, path, where, problem string
			reason := source.ReasonSecretUnavailable
			switch {
			case r.File != nil:
				key, path, where = source.FileKeyOf(*r.File), *r.File, r.Field
			default:
				key, path, where = source.SecretKeyOf(ref.Namespace, *r.Ref), r.Ref.File, r.Field+reading.RefField(*r.Ref)
			}
			if path != "" {
				if !seen[path] {
					seen[path] = true
					info, _ := os.Stat(path)
					b.result.secrets = append(b.result.secrets, secretFile{path: path, info: info})
				}
				value, problem = reading.FileValue(path)
			} else {
				value, problem = b.loader.secretValue(*r.Ref)
				if r.Ref.Name != "" {
					reason = source.ReasonUnsupported
				}
			}
			if problem != "" {
				b.result.problems = append(b.result.problems, b.result.objects.Problem(ref, where, source.Error, "%s", problem).Because(reason))
				continue
			}
			b.result.objects.Secrets[key] = source.NewSecret(value)
			fmt.Fprintf(b.digest, "%q %d:%s", key.String(), len(value), value)
		}
	}
}

// secretValue reads a secret that is not in a file.
func (l *loader) secretValue(ref v1alpha1.SecretRef) (value, problem string) {
	if ref.Name != "" {
		return "", "Kubernetes Secrets are not available from a folder: use file or env"
	}
	return reading.EnvValue(l.env, ref.Env)
}
