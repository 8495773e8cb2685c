package compile

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// What objects refer to may be missing, refused or none of their business. Here is decided what follows.

// refusef is errorf with a reason.
func (c *compiler) refusef(ref source.ObjectRef, field string, reason source.Reason, format string, args ...any) {
	c.problems = append(c.problems, c.objs.Problem(ref, field, source.Error, format, args...).Because(reason))
}

// unresolvedf tells of a reference to another object that leads nowhere. Where Options.Lenient is set the object that refers goes on without
// what it refers to; else nothing is compiled.
func (c *compiler) unresolvedf(ref source.ObjectRef, field string, reason source.Reason, format string, args ...any) {
	severity := source.Error
	if c.opts.Lenient {
		severity = source.Warning
	}
	c.problems = append(c.problems, c.objs.Problem(ref, field, severity, format, args...).Because(reason))
}

// forbidden says what consent is missing for a reference; "" where it is permitted. It comes before the question whether the other object
// exists, which is not for everybody to know.
func (c *compiler) forbidden(from, to source.ObjectRef) string {
	if c.permitted(from, to) {
		return ""
	}
	return fmt.Sprintf("the namespace %s does not permit it: there must be a ReferenceGrant in %s with {kind: %s, namespace: %s} in spec.from and {kind: %s, name: %s} in spec.to",
		to.Namespace, to.Namespace, from.Kind, from.Namespace, to.Kind, to.Name)
}

// permitted says whether an object may refer to another.
func (c *compiler) permitted(from, to source.ObjectRef) bool {
	if from.Namespace == to.Namespace {
		return true
	}
	r := crossing{from, to}
	at := c.permits[r]
	if at == nil {
		at = &value[bool]{is: c.grants.Permit(from, to)}
		c.permits[r] = at
	}
	c.asks(&at.cell)
	return at.is
}

// secret returns the value that a field of an object points to. what names it at the beginning of a sentence.
func (c *compiler) secret(at source.ObjectRef, field string, ref v1alpha1.SecretRef, what string) (source.Secret, bool) {
	key := source.SecretKeyOf(at.Namespace, ref)
	if to, _, ok := key.SecretOf(); ok {
		if why := c.forbidden(at, to); why != "" {
			c.refusef(at, field+".namespace", source.ReasonRefNotPermitted, "%s", why)
			return source.Secret{}, false
		}
	}
	s, found := get(c, &c.secrets, key)
	if !found {
		c.refusef(at, field, source.ReasonSecretUnavailable, "%s cannot be read", what)
	}
	return s, found
}

// routeBackend resolves a backend of a rule. Where it cannot be used now, why says so, for the people who ask what became of a request, and a
// Problem has been made of it.
func (c *compiler) routeBackend(ref source.ObjectRef, at string, rb *v1alpha1.RouteBackend) (b *backend, why string) {
	to := backendRef(ref, rb)
	if why := c.forbidden(ref, to); why != "" {
		c.unresolvedf(ref, at+".namespace", source.ReasonRefNotPermitted, "%s", why)
		return nil, "the Route may not refer to it: no ReferenceGrant of its namespace permits that"
	}
	b = c.backendOf(to)
	switch {
	case b == nil:
		c.unresolvedf(ref, at+".name", source.ReasonRefNotFound, "there is no %s", to)
		return nil, "there is no such Backend"
	case b.cluster == "":
		if c.opts.Lenient { // else its own problem says why
			c.unresolvedf(ref, at+".name", source.ReasonRefNotFound, "%s cannot be used: its own problem says why", to)
		}
		return nil, "the Backend itself is not valid"
	case rb.Model != "" && !strings.Contains(string(rb.Model), "*") && !b.Serves(string(rb.Model)):
		c.unresolvedf(ref, at+".model", source.ReasonRefNotFound, "Backend %s does not list the model %q", b.ID, rb.Model)
		return nil, fmt.Sprintf("the Backend does not list the model %q", rb.Model)
	}
	return b, ""
}

// backendRef is what a backend of a Route's rule names.
func backendRef(route source.ObjectRef, rb *v1alpha1.RouteBackend) source.ObjectRef {
	to := source.ObjectRef{Kind: "Backend", Namespace: route.Namespace, Name: string(rb.Name)}
	if rb.Namespace != "" {
		to.Namespace = string(rb.Namespace)
	}
	return to
}

// discovered returns the servers that were found of a Backend that names them indirectly, and fills in Host and BasePath. Neither
// depends on which servers there are, so that the cluster keeps its name when they change.
func (c *compiler) discovered(ref source.ObjectRef, b *backend, spec *v1alpha1.BackendSpec) (list []address, ok bool) {
	var field, what string
	switch {
	case spec.Service != nil:
		field, what = "spec.service", "Service "+string(spec.Service.Name)
		b.Host = fmt.Sprintf("%s.%s.svc", spec.Service.Name, ref.Namespace)
		if p := spec.Service.Port; p.Type == intstr.Int && p.IntVal != 80 && p.IntVal != 443 {
			b.Host = joinPort(b.Host, uint32(p.IntVal))
		}
	case spec.Selector != nil:
		field, what, b.Host = "spec.selector", "selector", ref.Name+"."+ref.Namespace
	default:
		field, what, b.Host = "spec.inferencePool", "InferencePool "+string(spec.InferencePool.Name), string(spec.InferencePool.Name)+"."+ref.Namespace
	}
	if spec.TLS != nil && spec.TLS.ServerName != "" {
		b.Host = spec.TLS.ServerName
	}
	b.BasePath = strings.TrimSuffix(spec.BasePath, "/")
	found, known := get(c, &c.endpoints, ref)
	if !known {
		c.refusef(ref, field, source.ReasonRefNotFound, "the servers of the %s could not be looked up", what)
		return nil, false
	}
	seen := map[address]bool{}
	for _, e := range found {
		ip, err := netip.ParseAddr(e.Address)
		if err != nil || ip.Zone() != "" || e.Port < 1 || e.Port > 65535 {
			c.warnf(ref, field, "%s, port %d, of the %s is left out: a server needs an IP address and a port", e.Address, e.Port, what)
			continue
		}
		a := address{host: ip.Unmap().String(), port: uint32(e.Port)}
		if seen[a] {
			continue
		}
		seen[a] = true
		a.weight = uint32(max(e.Weight, 1))
		list = append(list, a)
	}
	if len(list) == 0 {
		c.warnf(ref, field, "no server of the %s is ready: rules go on without this Backend until one is", what)
	}
	b.idle = len(list) == 0
	return list, true
}
