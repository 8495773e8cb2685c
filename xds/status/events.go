package status

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

const (
	// reporter of the events.
	reporter = "weir.dev/weir"
	// maxNote bounds an event's note, in bytes; the API allows 1024.
	maxNote = 1000
)

// recorder writes events. Equal ones become a series of one event.
type recorder struct {
	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder
}

func newRecorder(config *rest.Config) (*recorder, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the API server cannot be asked to record events: %w", err)
	}
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	return &recorder{b, b.NewRecorder(runtime.NewScheme(), reporter)}, nil
}

// start records until ctx ends.
func (r *recorder) start(ctx context.Context) error {
	return r.broadcaster.StartRecordingToSinkWithContext(ctx)
}

// note is an event that is worth recording.
type note struct {
	warning              bool
	reason, action, text string
}

// record writes a note about an object.
func (r *recorder) record(ref source.ObjectRef, w written, n note) {
	about := &corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name, UID: w.uid}
	typ := corev1.EventTypeNormal
	if n.warning {
		typ = corev1.EventTypeWarning
	}
	r.recorder.Eventf(about, nil, typ, n.reason, n.action, "%s", plain(n.text, maxNote))
}

// The actions of events: what Weir did with the object.
const (
	actionAccept  = "Accept"
	actionResolve = "ResolveRefs"
	actionProgram = "Program"
)

// notes are what is worth recording of a change of a status.
func notes(before, after []metav1.Condition) []note {
	var out []note
	for _, of := range []struct{ typ, action, recovered string }{
		{v1alpha1.ConditionAccepted, actionAccept, ReasonAccepted},
		{v1alpha1.ConditionResolvedRefs, actionResolve, ReasonResolvedRefs},
		{v1alpha1.ConditionProgrammed, actionProgram, ReasonProgrammed},
	} {
		was, is := conditionOf(before, of.typ), conditionOf(after, of.typ)
		if of.typ == v1alpha1.ConditionProgrammed {
			// The others tell of what was refused, and being late is nothing to warn of.
			was, is = onlyRejected(was), onlyRejected(is)
			if was.ObservedGeneration == is.ObservedGeneration {
				was.Message = is.Message // on how many replicas does not matter
			}
		}
		switch {
		case is.Status == metav1.ConditionFalse && (was.Status != metav1.ConditionFalse || was.Reason != is.Reason || was.Message != is.Message):
			out = append(out, note{true, is.Reason, of.action, is.Message})
		case is.Status == metav1.ConditionTrue && was.Status == metav1.ConditionFalse:
			out = append(out, note{false, of.recovered, of.action, is.Message})
		}
	}
	return out
}

// onlyRejected is a Programmed condition, or the zero Condition where it is false for another reason than Envoy's.
func onlyRejected(c metav1.Condition) metav1.Condition {
	if c.Status == metav1.ConditionFalse && c.Reason != ReasonRejected {
		return metav1.Condition{}
	}
	return c
}
