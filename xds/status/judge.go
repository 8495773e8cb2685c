package status

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// The reasons of conditions that are not reasons of Problems.
const (
	// ReasonAccepted: the object is valid.
	ReasonAccepted = "Accepted"
	// ReasonResolvedRefs: everything that the object refers to exists and may be used.
	ReasonResolvedRefs = "ResolvedRefs"
	// ReasonProgrammed: every replica serves it.
	ReasonProgrammed = "Programmed"
	// ReasonPending: some replica does not serve it yet.
	ReasonPending = "Pending"
	// ReasonRejected: Envoy refused it on some replica.
	ReasonRejected = "Rejected"
	// ReasonUnresolvedRefs: it is not served because of what it refers to.
	ReasonUnresolvedRefs = "UnresolvedRefs"
	// ReasonNoReplicas: there is no replica that could serve it.
	ReasonNoReplicas = "NoReplicas"
)

const (
	// maxTold of an object's problems are told; the others are counted.
	maxTold = 5
	// maxMessage bounds the message of a condition, in bytes. The API allows 32768, and people read it in a terminal.
	maxMessage = 2048
)

// fleet is what the replicas serve, with equal reports put together.
type fleet struct {
	total    int        // live replicas that serve something, or could not
	starting int        // live replicas that serve nothing yet, and do not count
	unknown  int        // of total: replicas that serve what this process has never read
	serving  []counted  // the others
	rejected []rejected // by what Envoy refused
	refused  map[source.ObjectRef][]refused
	trouble  string // why nothing can be compiled; "" where something is
}

type counted struct {
	lookup
	replicas int
}

type rejected struct {
	counted
	reason string
}

// refused is a generation of an object that Envoy refuses on some replicas.
type refused struct {
	identity
	replicas int
	reason   string
}

// refuses says on how many replicas Envoy refuses a generation of an object, and why on most of them; 0 for none.
func (f *fleet) refuses(ref source.ObjectRef, is identity) (n int, reason string) {
	most := 0
	for _, r := range f.refused[ref] {
		if r.identity != is {
			continue
		}
		n += r.replicas
		if r.replicas > most {
			most, reason = r.replicas, r.reason
		}
	}
	return n, reason
}

// on says how many replicas serve a generation of an object, and how many may.
func (f *fleet) on(ref source.ObjectRef, is identity) (n int) {
	for _, s := range f.serving {
		if s.at(ref) == is {
			n += s.replicas
		}
	}
	return n
}

// verdict is what an object's status should say. The times of its conditions are not set.
type verdict struct {
	identity
	conditions []metav1.Condition
}

// condition is the one of a type; the zero Condition where there is none.
func (v *verdict) condition(typ string) metav1.Condition { return conditionOf(v.conditions, typ) }

func conditionOf(conditions []metav1.Condition, typ string) metav1.Condition {
	for _, c := range conditions {
		if c.Type == typ {
			return c
		}
	}
	return metav1.Condition{}
}

// judge says what the status of an object should be. known is what is written there now.
func judge(ref source.ObjectRef, generation identity, problems []source.Problem, kept accept.Kept, older int64, f *fleet, known []metav1.Condition) verdict {
	v := verdict{identity: generation}
	set := func(typ, reason, message string, is bool) {
		status := metav1.ConditionFalse
		if is {
			status = metav1.ConditionTrue
		}
		v.conditions = append(v.conditions, metav1.Condition{
			Type: typ, Status: status, Reason: reason, Message: plain(message, maxMessage), ObservedGeneration: v.generation,
		})
	}

	var wrong, unresolved, warnings []source.Problem
	byEnvoy := false
	for _, p := range problems {
		switch {
		case p.Reason == source.ReasonRefusedByEnvoy:
			byEnvoy = true // of this process; the reports tell of all
		case p.Reason.Reference():
			unresolved = append(unresolved, p)
		case p.Severity == source.Error:
			wrong = append(wrong, p)
		default:
			warnings = append(warnings, p)
		}
	}
	if byEnvoy && len(wrong) == 0 && len(unresolved) == 0 {
		kept = 0 // others may serve it
	}
	refusing, reason := f.refuses(ref, v.identity)
	switch {
	case len(wrong) > 0:
		set(v1alpha1.ConditionAccepted, reasonOf(wrong), tell(wrong), false)
	case refusing > 0:
		set(v1alpha1.ConditionAccepted, string(source.ReasonRefusedByEnvoy), reason, false)
	case len(warnings) > 0:
		set(v1alpha1.ConditionAccepted, ReasonAccepted, "valid; warning: "+tell(warnings), true)
	default:
		set(v1alpha1.ConditionAccepted, ReasonAccepted, "valid", true)
	}
	if ref.Kind == "ReferenceGrant" {
		return v // it refers to nothing, and Envoy knows nothing of it
	}
	if len(unresolved) > 0 {
		message := tell(unresolved)
		if goesOn(v.identity, kept, older) {
			message += "; it goes on with what was read before"
		}
		set(v1alpha1.ConditionResolvedRefs, reasonOf(unresolved), message, false)
	} else {
		set(v1alpha1.ConditionResolvedRefs, ReasonResolvedRefs, "everything it refers to can be used", true)
	}
	on, why, message := programmed(ref, v.identity, kept, older, len(wrong) > 0, f, known)
	set(v1alpha1.ConditionProgrammed, why, message, on)
	return v
}

// programmed judges what the replicas make of an object.
func programmed(ref source.ObjectRef, is identity, kept accept.Kept, older int64, invalid bool, f *fleet, known []metav1.Condition) (bool, string, string) {
	if kept != 0 && !goesOn(is, kept, older) {
		reason := ReasonUnresolvedRefs
		if invalid {
			reason = string(source.ReasonInvalid)
		}
		if kept == accept.Shut {
			return false, reason, fmt.Sprintf("generation %d is refused, and the older one is not known: requests that it covers are answered with 503 until it is mended", is.generation)
		}
		if kept == accept.LeftOut {
			return false, reason, fmt.Sprintf("generation %d is refused, so the object is left out", is.generation)
		}
		n := f.on(ref, identity{is.uid, older})
		return false, reason, fmt.Sprintf("generation %d is refused; generation %d goes on being served, on %d of %s", is.generation, older, n, replicas(f.total))
	}
	if f.total == 0 {
		if f.starting > 0 {
			return false, ReasonPending, waiting(f, "no replica serves anything yet: "+replicas(f.starting)+" starting")
		}
		return false, ReasonNoReplicas, waiting(f, "no replica of Weir is up")
	}
	n := f.on(ref, is)
	if n == f.total {
		return true, ReasonProgrammed, "programmed on " + of(n, f.total)
	}
	// What another process has read is not known here for a moment. Whoever was programmed stays so meanwhile.
	was := conditionOf(known, v1alpha1.ConditionProgrammed)
	if f.unknown > 0 && n+f.unknown == f.total && was.Status == metav1.ConditionTrue && was.ObservedGeneration == is.generation {
		return true, ReasonProgrammed, was.Message
	}
	if refusing, reason := f.refuses(ref, is); refusing > 0 {
		return false, ReasonRejected, fmt.Sprintf("programmed on %s; not on %d: %s", of(n, f.total), refusing, reason)
	}
	for _, r := range f.rejected {
		if r.at(ref) == is {
			return false, ReasonRejected, fmt.Sprintf("programmed on %s; Envoy refuses it on %d: %s", of(n, f.total), r.replicas, r.reason)
		}
	}
	return false, ReasonPending, waiting(f, "programmed on "+of(n, f.total))
}

// goesOn says whether the generation itself is served, with values that were read before and are missing now.
func goesOn(is identity, kept accept.Kept, older int64) bool {
	return kept == accept.Older && older == is.generation
}

// waiting adds why nothing new is served.
func waiting(f *fleet, message string) string {
	if f.trouble == "" {
		return message
	}
	return message + "; nothing new is served: " + f.trouble
}

func of(n, total int) string { return fmt.Sprintf("%d of %s", n, replicas(total)) }

func replicas(n int) string {
	if n == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

// reasonOf is the reason of the first problem.
func reasonOf(problems []source.Problem) string {
	if r := problems[0].Reason; r != "" {
		return string(r)
	}
	return string(source.ReasonInvalid)
}

// tell writes problems as one sentence, each with its field.
func tell(problems []source.Problem) string {
	var b strings.Builder
	for i, p := range problems {
		if i == maxTold {
			fmt.Fprintf(&b, "; and %d more", len(problems)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		if p.Field != "" {
			b.WriteString(p.Field + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}
