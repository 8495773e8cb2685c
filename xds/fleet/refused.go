package fleet

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/xds/source"
)

const (
	// refusedURL is the type of what a NACK carries where only some objects are refused, and the others are served. Its value is JSON.
	refusedURL = "type.googleapis.com/weir.dev.v1alpha1.Refused"
	// maxRefused bounds the objects that a NACK may carry.
	maxRefused = 200
)

// Refused is an object of a set that the Envoy of a client refuses, while the others are served.
type Refused struct {
	Object     source.ObjectRef
	UID        types.UID
	Generation int64  // that is refused
	Serves     int64  // generation that is served in its place; 0 for none
	Reason     string // says so, with Envoy's words
}

// refusedBody is a Refused as it travels.
type refusedBody struct {
	Object     refBody   `json:"object"`
	UID        types.UID `json:"uid,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Serves     int64     `json:"serves,omitempty"`
	Reason     string    `json:"reason"`
}

// summary is the reason of a NACK that carries refused objects; "" for none.
func summary(refused []Refused) string {
	switch len(refused) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("%s: %s", refused[0].Object, refused[0].Reason)
	}
	return fmt.Sprintf("%s: %s; and %d more", refused[0].Object, refused[0].Reason, len(refused)-1)
}

// encodeRefused writes refused objects into the details of a NACK.
func encodeRefused(refused []Refused) []*anypb.Any {
	if len(refused) == 0 {
		return nil
	}
	bodies := make([]refusedBody, len(refused))
	for i, r := range refused {
		bodies[i] = refusedBody{refBody(r.Object), r.UID, r.Generation, r.Serves, clean(r.Reason)}
	}
	value, err := json.Marshal(bodies)
	if err != nil {
		panic(fmt.Sprintf("names and numbers cannot be written as JSON: %v", err))
	}
	return []*anypb.Any{{TypeUrl: refusedURL, Value: value}}
}

// decodeRefused reads them. Details that are not as they should be are none: then the whole set counts as refused.
func decodeRefused(details []*anypb.Any) []Refused {
	for _, d := range details {
		if d.GetTypeUrl() != refusedURL {
			continue
		}
		var bodies []refusedBody
		if err := json.Unmarshal(d.GetValue(), &bodies); err != nil || len(bodies) > maxRefused {
			return nil
		}
		var out []Refused
		for _, b := range bodies {
			if b.Object.Name == "" || len(b.Object.Kind)+len(b.Object.Namespace)+len(b.Object.Name)+len(b.UID) > maxReason {
				return nil
			}
			out = append(out, Refused{source.ObjectRef(b.Object), b.UID, b.Generation, b.Serves, clean(b.Reason)})
		}
		return out
	}
	return nil
}
