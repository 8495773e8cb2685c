// Package compile turns API objects into one Version: what Envoy is told over xDS, and the table that
// ext_proc decides from. It is a pure function; it reads no file, no clock and no network.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
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
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/source"
)

// Version is one configuration, ready to be served. It must not be changed: versions of one Compiler share what has not changed between
// them, whole maps included. A message that is the same in two of them, made one after the other, is the same pointer, so that what was made
// of it for the one (its bytes, its hash) is good for the other. Another pointer says nothing: the message may still be the same.
type Version struct {
	// ID is a hash of everything below: equal configurations have equal IDs.
	ID    string
	Table *table.Table

	Listeners map[string]*listenerv3.Listener
	Clusters  cow.Map[*clusterv3.Cluster]
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	Secrets   map[string]*tlsv3.Secret
	// Routes are what Envoy does with requests, by the value of the header (wire.RuleHeader) that selects it: Scopes makes resources
	// of them. A key has a hash of what the entry does, weights apart: two versions may be served at
	// once, and a request of the older one still finds its entry.
	Routes cow.Map[*routev3.Route]
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
	// RelaySocket and InnerSocket are the paths of the unix sockets of the relay, where Weir listens, and of the listener of its fills, where
	// Envoy does; "" for none, so that CachePolicies and SessionPolicies change nothing.
	RelaySocket, InnerSocket string
	// SystemCAs is the path of the system's certificate authorities, PEM, where Envoy runs. They are trusted for backends
	// that name none of their own; "" where there are none.
	SystemCAs string
	// Created is the Unix time that model lists show.
	Created int64
	// MaxRequestBytes and MaxHeaderKiB override the limits of every gateway; 0 does not.
	MaxRequestBytes, MaxHeaderKiB uint32
	// Listen overrides the address and port of the first listener of the first gateway; "" does not.
	Listen string
	// Lenient is for objects of many owners. What refers to an object that does not exist, may not be referred to, or is itself invalid goes
	// on without it, with a Warning: a rule without any backend left answers 503, and a policy covers what is left of its targets.
	// Without it such a reference is an Error.
	Lenient bool
	// Check makes versions that are for knowing whether the objects are right, and are served by nobody: they have neither Listeners, Clusters, Endpoints,
	// Secrets, Routes and Steered nor, in their Table, Chains. All else is the same, the ID too; a Compiler remembers less than half for it.
	Check bool
	// AllowedRoutes says whose Routes an LLMGateway takes that has no spec.allowedRoutes: those of its own namespace where it is
	// v1alpha1.NamespacesFromSame, else all.
	AllowedRoutes v1alpha1.FromNamespaces
}

// Compile compiles objects. The Version is nil when a problem is an Error. Whoever compiles again and again has a Compiler.
func Compile(objs *source.Objects, opts Options) (*Version, []source.Problem) {
	return NewCompiler().Compile(objs, opts)
}

// compiler is one run of a Compiler.
type compiler struct {
	*Compiler
	opts     Options
	objs     *source.Objects
	out      *Version
	problems []source.Problem

	unit     *unit                                     // that is being made
	backing  *backendUnit                              // likewise, of a Backend
	routing  *routeUnit                                // of a Route
	limiting *policyUnit                               // of a LimitPolicy or a Budget
	policyOf map[source.ObjectRef]*v1alpha1.LoadPolicy // by Backend

	// The longest times that a limit, and then the admission of a pool, let a request wait.
	limitWait, poolWait time.Duration
}

func (c *compiler) errorf(ref source.ObjectRef, field, format string, args ...any) {
	c.problems = append(c.problems, c.objs.Problem(ref, field, source.Error, format, args...))
}

func (c *compiler) warnf(ref source.ObjectRef, field, format string, args ...any) {
	c.problems = append(c.problems, c.objs.Problem(ref, field, source.Warning, format, args...))
}

// asJSON prints what holds numbers and names.
func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("compile: %v", err))
	}
	return string(text)
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
