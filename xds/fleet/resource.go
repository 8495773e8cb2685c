package fleet

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// TypeURL is the type of all resources.
const TypeURL = "type.googleapis.com/weir.dev.v1alpha1.Object"

// The first parts of names of resources that are not objects.
const (
	valuePrefix     = "Value"
	endpointsPrefix = "Endpoints"
	problemsPrefix  = "Problems"
	labelsPrefix    = "NamespaceLabels"
)

// resource is one thing that travels: an object, a value, the endpoints of a Backend, the labels of a namespace, or the problems of an object. It is
// immutable.
type resource struct {
	name    string // "Route/default/chat", "Value/HASH", "Endpoints/default/vllm", "NamespaceLabels/default", "Problems/Route/default/chat"
	version string // names the content
	body    []byte // JSON
}

// contentVersion names content, in 20 characters.
func contentVersion(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:15])
}

// resourceName joins parts so that no two lists of parts have one name, whatever is in them.
func resourceName(parts ...string) string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}

func objectName(ref source.ObjectRef) string {
	return resourceName(ref.Kind, ref.Namespace, ref.Name)
}

func endpointsName(ref source.ObjectRef) string {
	return resourceName(endpointsPrefix, ref.Namespace, ref.Name)
}

func problemsName(ref source.ObjectRef) string {
	return resourceName(problemsPrefix, ref.Kind, ref.Namespace, ref.Name)
}

// valueName does not tell where the value is kept.
func valueName(k keyBody) string {
	h := sha256.New()
	for _, p := range []string{k.Namespace, k.Name, k.Key, k.File, k.Env} {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return resourceName(valuePrefix, hex.EncodeToString(h.Sum(nil)[:16]))
}

// objectBody is an object without what is of no matter to a gateway: status, managed fields and resourceVersion change all the time.
type objectBody struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     any               `json:"spec"`
}

func encodeObject(ref source.ObjectRef, obj source.Object) (*resource, error) {
	spec := reflect.ValueOf(obj).Elem().FieldByName("Spec")
	if !spec.IsValid() {
		return nil, fmt.Errorf("%s has no spec", ref)
	}
	body, err := json.Marshal(objectBody{
		Metadata: metav1.ObjectMeta{
			Namespace: ref.Namespace, Name: ref.Name, UID: obj.GetUID(), Generation: obj.GetGeneration(),
			Labels: obj.GetLabels(), Annotations: obj.GetAnnotations(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec: spec.Addr().Interface(),
	})
	if err != nil {
		return nil, fmt.Errorf("%s cannot be written as JSON: %w", ref, err)
	}
	return &resource{name: objectName(ref), version: contentVersion(body), body: body}, nil
}

// keyBody is a source.SecretKey in the open.
type keyBody struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Key       string `json:"key,omitempty"`
	File      string `json:"file,omitempty"`
	Env       string `json:"env,omitempty"`
}

func openKey(k source.SecretKey) keyBody {
	if secret, key, ok := k.SecretOf(); ok {
		return keyBody{Namespace: secret.Namespace, Name: secret.Name, Key: key}
	}
	file, env := k.Local()
	return keyBody{File: file, Env: env}
}

func (k keyBody) secretKey() source.SecretKey {
	return source.SecretKeyOf(k.Namespace, v1alpha1.SecretRef{Name: v1alpha1.ObjectName(k.Name), Key: k.Key, File: k.File, Env: k.Env})
}

// valueBody is a value behind a mask. Responses are compressed, and a value must not be compressed together with text that somebody else may
// write: the length of the response would tell him how alike they are. Masked is the value XOR Mask, and Mask is random.
type valueBody struct {
	Of     keyBody `json:"of"`
	Mask   []byte  `json:"mask"`
	Masked []byte  `json:"masked"`
}

func encodeValue(of keyBody, value string) *resource {
	body := valueBody{Of: of, Mask: make([]byte, len(value)), Masked: make([]byte, len(value))}
	rand.Read(body.Mask) // never fails: crypto/rand ends the process instead
	subtle.XORBytes(body.Masked, body.Mask, []byte(value))
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("strings and bytes cannot be written as JSON: %v", err))
	}
	name := valueName(of)
	return &resource{name: name, version: contentVersion([]byte(name), []byte(value)), body: encoded}
}

func encodeEndpoints(ref source.ObjectRef, endpoints []v1alpha1.Endpoint) (*resource, error) {
	if endpoints == nil {
		endpoints = []v1alpha1.Endpoint{}
	}
	body, err := json.Marshal(endpoints)
	if err != nil {
		return nil, fmt.Errorf("the endpoints of %s cannot be written as JSON: %w", ref, err)
	}
	return &resource{name: endpointsName(ref), version: contentVersion(body), body: body}, nil
}

func encodeLabels(namespace string, labels map[string]string) *resource {
	if labels == nil {
		labels = map[string]string{}
	}
	body, err := json.Marshal(labels)
	if err != nil {
		panic(fmt.Sprintf("strings cannot be written as JSON: %v", err))
	}
	return &resource{name: resourceName(labelsPrefix, namespace), version: contentVersion(body), body: body}
}

// problemsBody are the problems that the source has with one object.
type problemsBody struct {
	Object   refBody       `json:"object"`
	Problems []problemBody `json:"problems"`
}

type refBody struct {
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

type problemBody struct {
	Field    string `json:"field,omitempty"`
	Message  string `json:"message"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Severity int    `json:"severity,omitempty"`
	Reason   string `json:"reason,omitempty"`
	UID      string `json:"uid,omitempty"`
}

func encodeProblems(ref source.ObjectRef, problems []source.Problem) (*resource, error) {
	body := problemsBody{Object: refBody(ref)}
	for _, p := range problems {
		body.Problems = append(body.Problems, problemBody{
			Field: p.Field, Message: p.Message, File: p.File, Line: p.Line, Severity: int(p.Severity), Reason: string(p.Reason), UID: string(p.UID),
		})
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("the problems of %s cannot be written as JSON: %w", ref, err)
	}
	return &resource{name: problemsName(ref), version: contentVersion(encoded), body: encoded}, nil
}

// item is a resource and what it says. It is immutable.
type item struct {
	resource
	obj       source.Object       // of an object
	value     *decodedValue       // of a value
	backend   source.ObjectRef    // of endpoints
	endpoints []v1alpha1.Endpoint // nil where the resource is something else
	namespace string              // of labels
	labels    map[string]string   // nil where the resource is something else
	problems  []source.Problem    // of problems; of anything else, what is wrong with the resource
}

type decodedValue struct {
	key    source.SecretKey
	secret source.Secret
}

// decode reads a resource. One that cannot be read is an item with a Problem, since the others must not suffer from it: it may be of a newer Weir.
func decode(r resource) *item {
	it := &item{resource: r}
	parts, err := splitName(r.name)
	if err == nil {
		err = it.read(parts)
	}
	if err != nil {
		p := source.Problem{
			Message:  fmt.Sprintf("the control plane sent something that this version of Weir cannot read (%v): run the same version of both", err),
			Severity: source.Warning, Reason: source.ReasonUnsupported,
		}
		if len(parts) == 3 {
			p.Object = source.ObjectRef{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
			if _, known := source.NewObject(parts[0]); known {
				p.Severity, p.UID = source.Error, uidOf(r.body)
			}
		}
		return &item{resource: r, problems: []source.Problem{p}}
	}
	return it
}

// uidOf is the UID in an object that cannot be read otherwise; "" where there is none.
func uidOf(body []byte) types.UID {
	var o struct {
		Metadata struct {
			UID types.UID `json:"uid"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(body, &o); err != nil {
		return ""
	}
	return o.Metadata.UID
}

func splitName(name string) ([]string, error) {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		plain, err := url.PathUnescape(p)
		if err != nil {
			return nil, fmt.Errorf("the name %q has a broken escape", name)
		}
		parts[i] = plain
	}
	// Of two names for one thing, which one counts would hang on what came first.
	if resourceName(parts...) != name {
		return nil, fmt.Errorf("the name %q is not in the form of names", name)
	}
	return parts, nil
}

func (it *item) read(parts []string) error {
	switch {
	case parts[0] == valuePrefix && len(parts) == 2:
		return it.readValue()
	case parts[0] == labelsPrefix && len(parts) == 2:
		it.namespace = parts[1]
		return it.readLabels()
	case parts[0] == endpointsPrefix && len(parts) == 3:
		it.backend = source.ObjectRef{Kind: "Backend", Namespace: parts[1], Name: parts[2]}
		return it.readEndpoints()
	case parts[0] == problemsPrefix && len(parts) == 4:
		return it.readProblems()
	case len(parts) == 3:
		return it.readObject(source.ObjectRef{Kind: parts[0], Namespace: parts[1], Name: parts[2]})
	}
	return fmt.Errorf("nothing is known of resources such as %q", it.name)
}

func (it *item) readObject(ref source.ObjectRef) error {
	obj, ok := source.NewObject(ref.Kind)
	if !ok {
		return fmt.Errorf("the kind %s is unknown", ref.Kind)
	}
	unknown, err := kjson.UnmarshalStrict(it.body, obj)
	if err != nil {
		return errors.New("it is no " + ref.Kind) // the decoder's words may hold parts of the body
	}
	if obj.GetNamespace() != ref.Namespace || obj.GetName() != ref.Name {
		return fmt.Errorf("what is called %s has another name inside", ref)
	}
	for _, e := range unknown {
		field, _ := strings.CutPrefix(strings.TrimSuffix(e.Error(), `"`), `unknown field "`)
		it.problems = append(it.problems, source.Problem{
			Object: ref, Field: field, Severity: source.Warning, Reason: source.ReasonUnsupported,
			Message: "this version of Weir does not know the field, and does nothing about it: the control plane is newer",
		})
	}
	it.obj = obj
	return nil
}

func (it *item) readValue() error {
	var body valueBody
	// No words of the decoder here: they may hold parts of the value.
	if err := json.Unmarshal(it.body, &body); err != nil || len(body.Mask) != len(body.Masked) || valueName(body.Of) != it.name || openKey(body.Of.secretKey()) != body.Of {
		return errors.New("a value is not in the form of values")
	}
	plain := make([]byte, len(body.Mask))
	subtle.XORBytes(plain, body.Mask, body.Masked)
	it.value = &decodedValue{key: body.Of.secretKey(), secret: source.NewSecret(string(plain))}
	return nil
}

func (it *item) readEndpoints() error {
	if err := json.Unmarshal(it.body, &it.endpoints); err != nil {
		return fmt.Errorf("the endpoints of %s are none", it.backend)
	}
	if it.endpoints == nil {
		it.endpoints = []v1alpha1.Endpoint{}
	}
	return nil
}

func (it *item) readLabels() error {
	if err := json.Unmarshal(it.body, &it.labels); err != nil {
		return fmt.Errorf("the labels of the namespace %s are none", it.namespace)
	}
	if it.labels == nil {
		it.labels = map[string]string{}
	}
	return nil
}

func (it *item) readProblems() error {
	var body problemsBody
	if err := json.Unmarshal(it.body, &body); err != nil {
		return errors.New("problems are not in the form of problems")
	}
	for i, p := range body.Problems {
		if p.Severity != int(source.Error) && p.Severity != int(source.Warning) {
			return errors.New("a problem has the severity " + strconv.Itoa(body.Problems[i].Severity))
		}
		it.problems = append(it.problems, source.Problem{
			Object: source.ObjectRef(body.Object), Field: p.Field, Message: p.Message, File: p.File, Line: p.Line,
			Severity: source.Severity(p.Severity), Reason: source.Reason(p.Reason), UID: types.UID(p.UID),
		})
	}
	return nil
}
