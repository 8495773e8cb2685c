// Package compile turns API objects into one Version: what Envoy is told over xDS, and the table that
// ext_proc decides from. It is a pure function; it reads no file, no clock and no network.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// Version is one configuration, ready to be served.
type Version struct {
	// ID is a hash of everything below: equal configurations have equal IDs.
	ID    string
	Table *table.Table

	Listeners map[string]*listenerv3.Listener
	Clusters  map[string]*clusterv3.Cluster
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	Secrets   map[string]*tlsv3.Secret
	// Routes are the entries of the one route configuration, by the value of the header (wire.RuleHeader) that selects
	// them. A key is a hash of what the entry does, weights apart: two versions may be served at
	// once, and a request of the older one still finds its entry.
	Routes map[string]*routev3.Route
	// Pools are the Backends whose load is steered, by their IDs.
	Pools map[string]*Pool
	// Steered are the Routes whose weights steering may replace, by their keys: those that choose among several Backends, one
	// of which at least has a Pool.
	Steered map[string]SteeredRoute
	// MaxBody is the largest request body, in bytes.
	MaxBody uint32
	// Retain is how long a request of this version may still need its clusters after another version
	// has taken over.
	Retain time.Duration
	// MaxWait is the longest time that a limit, or the admission of a pool, lets a request wait.
	MaxWait time.Duration
	// Settings are what the gateways say about the process itself.
	Settings
}

// Options are what the objects do not say.
type Options struct {
	Dialects *adapters.Set
	// Keys fetches the signing keys of JWT issuers; nil where no issuer has a URL.
	Keys identity.KeySource
	// Identity is what authentication keeps from one version to the next.
	Identity identity.Shared
	// ExtProcCluster is the bootstrap cluster that serves ext_proc and access logs.
	ExtProcCluster string
	// LaneFile is the path of the file in which Weir says how many requests it has let in ahead of their coming; "" for none.
	LaneFile string
	// SystemCAs is the path of the system's certificate authorities, PEM, where Envoy runs. They are trusted for backends
	// that name none of their own; "" where there are none.
	SystemCAs string
	// Created is the Unix time that model lists show.
	Created int64
	// MaxRequestBytes and MaxHeaderKiB override the limits of every gateway; 0 does not.
	MaxRequestBytes, MaxHeaderKiB uint32
	// Listen overrides the address and port of the first listener of the first gateway; "" does not.
	Listen string
}

type compiler struct {
	opts     Options
	objs     *source.Objects
	out      *Version
	problems []source.Problem

	backends map[source.ObjectRef]*backend
	rules    map[string][]namedRule // by "namespace/name" of the Route
	known    map[source.ObjectRef]bool
	policyOf map[source.ObjectRef]*v1alpha1.LoadPolicy // by Backend

	// The longest times that a limit, and then the admission of a pool, let a request wait.
	limitWait, poolWait time.Duration

	// What requests meet that Weir does not answer.
	open     map[*table.Rule]openTargets
	openable bool // some match of such a rule can be judged without Weir
	callers  identity.Config
	weakKeys map[string]bool // "namespace/name" of APIKeys whose hash is worth guessing at
}

// Compile compiles objects. The Version is nil when a problem is an Error.
func Compile(objs *source.Objects, opts Options) (*Version, []source.Problem) {
	c := &compiler{
		opts: opts, objs: objs,
		backends: map[source.ObjectRef]*backend{},
		rules:    map[string][]namedRule{},
		known:    map[source.ObjectRef]bool{},
		policyOf: map[source.ObjectRef]*v1alpha1.LoadPolicy{},
		open:     map[*table.Rule]openTargets{},
		weakKeys: map[string]bool{},
		out: &Version{
			Table:     &table.Table{Chains: map[string]*table.Chain{}, Created: opts.Created},
			Listeners: map[string]*listenerv3.Listener{},
			Clusters:  map[string]*clusterv3.Cluster{},
			Endpoints: map[string]*endpointv3.ClusterLoadAssignment{},
			Secrets:   map[string]*tlsv3.Secret{},
			Routes:    map[string]*routev3.Route{},
			Pools:     map[string]*Pool{},
			Steered:   map[string]SteeredRoute{},
		},
	}
	for _, o := range objs.All() {
		c.known[source.RefOf(o)] = true
	}
	c.settings()
	c.captures()
	c.native()
	c.identity()
	c.loadPolicies()
	for _, b := range objs.Backends {
		c.backend(b)
	}
	c.routes()
	c.undecided()
	c.policies()
	c.out.MaxWait = c.limitWait + c.poolWait
	c.gateways()
	if !source.HasErrors(c.problems) {
		c.advice()
	}
	source.SortProblems(c.problems)
	if source.HasErrors(c.problems) {
		return nil, c.problems
	}
	c.out.ID = c.out.hash(objs)
	c.out.Table.Version = c.out.ID
	c.out.Table.Currency, c.out.Table.Waits = c.out.Currency, len(objs.LimitPolicies)+len(objs.Budgets) > 0 || c.poolWait > 0
	if c.out.Shared != nil {
		c.out.Table.KeySharing = limit.Lease
	}
	if len(objs.Gateways) == 1 {
		c.out.Table.Gateway = objs.Gateways[0].Namespace + "/" + objs.Gateways[0].Name
	}
	return c.out, c.problems
}

func (c *compiler) errorf(ref source.ObjectRef, field, format string, args ...any) {
	c.problems = append(c.problems, c.objs.Problem(ref, field, source.Error, format, args...))
}

func (c *compiler) warnf(ref source.ObjectRef, field, format string, args ...any) {
	c.problems = append(c.problems, c.objs.Problem(ref, field, source.Warning, format, args...))
}

// hash identifies the objects and what was made of them: the second part changes when a newer weir
// compiles the same objects differently.
func (v *Version) hash(objs *source.Objects) string {
	h := sha256.New()
	content, err := objs.Hash()
	if err != nil { // objects that came through a schema can be printed as JSON
		panic(fmt.Sprintf("compile: %v", err))
	}
	h.Write([]byte(content))
	writeAll(h, v.Listeners)
	writeAll(h, v.Clusters)
	writeAll(h, v.Endpoints)
	writeAll(h, v.Secrets)
	writeAll(h, v.Routes)
	steering, err := json.Marshal([]any{v.Pools, v.Steered})
	if err != nil { // they hold numbers and names
		panic(fmt.Sprintf("compile: %v", err))
	}
	h.Write(steering)
	return hex.EncodeToString(h.Sum(nil))[:12]
}

func writeAll[M proto.Message](h interface{ Write([]byte) (int, error) }, m map[string]M) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		h.Write([]byte(k))
		h.Write(deterministic(m[k]))
	}
}

func deterministic(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("compile: marshal %T: %v", m, err))
	}
	return b
}

// short names content: 16 hexadecimal digits of its SHA-256. With half of them, two of some ten thousand chains would soon
// have one name.
func short(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// pack wraps a message that this package built; it can only fail on invalid UTF-8.
func pack(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(fmt.Sprintf("compile: pack %T: %v", m, err))
	}
	return a
}
