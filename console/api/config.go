package api

import (
	"net/http"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/xds/source"
)

// maxObjects are written out.
const maxObjects = 2000

func (a *API) showConfig(w http.ResponseWriter, r *http.Request) {
	kind := r.URL.Query().Get("kind")
	if _, ok := source.NewObject(kind); kind != "" && !ok {
		Fail(w, http.StatusBadRequest, "kind: there are no objects of this kind; use Backend, Route, LLMGateway, Consumer, APIKey, JWTIssuer, LimitPolicy, Budget, LoadPolicy, CachePolicy, SessionPolicy or ReferenceGrant")
		return
	}
	body := Config{Status: configurationOf(a.Publisher()), Problems: []Problem{}, Objects: []Object{}, Changes: []Change{}}
	for _, p := range a.Problems() {
		made := Problem{Severity: p.Severity.String(), Field: p.Field, File: p.File, Line: p.Line, Message: p.Message}
		if p.Object != (source.ObjectRef{}) {
			made.Object = p.Object.String()
		}
		body.Problems = append(body.Problems, made)
	}
	if objs := a.Objects(); objs != nil {
		hider := state.NewHider(objs)
		for _, o := range objs.All() {
			ref := source.RefOf(o)
			if kind != "" && ref.Kind != kind {
				continue
			}
			if len(body.Objects) == maxObjects {
				body.More++
				continue
			}
			made := Object{Kind: ref.Kind, ID: ref.Namespace + "/" + ref.Name, YAML: hider.YAML(o)}
			if at := objs.Origins[ref]; at != nil {
				made.File, made.Line = at.File, at.Line
			}
			body.Objects = append(body.Objects, made)
		}
	}
	for _, c := range a.State.Changes.All() {
		body.Changes = append(body.Changes, changeOf(&c))
	}
	write(w, body)
}

func changeOf(c *state.Change) Change {
	out := Change{
		Seq: c.Seq, At: c.At.UTC(), Version: c.Version, Outcome: c.Outcome, Reason: c.Reason, LiveAt: utc(c.LiveAt), Objects: []ObjectChange{}, More: c.More,
	}
	for _, o := range c.Objects {
		out.Objects = append(out.Objects, ObjectChange{Kind: o.Ref.Kind, ID: o.Ref.Namespace + "/" + o.Ref.Name, Action: o.Action, Diff: o.Diff})
	}
	return out
}
