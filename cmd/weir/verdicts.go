package main

import (
	"context"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/serve"
)

// maxVerdicts may wait until a compilation is done.
const maxVerdicts = 256

// servedVersion is the verdict of an Envoy that has taken a version.
type servedVersion string

// changed hears of the publisher what Envoy makes of versions.
func (g *gateway) changed(s serve.State) {
	if s.Serving != g.served {
		g.served = s.Serving
		g.verdict(servedVersion(s.Serving))
	}
	g.hear(s)
}

// refused hears of the publisher that Envoy refuses a version.
func (g *gateway) refused(r serve.Refusal) { g.verdict(r) }

func (g *gateway) verdict(v any) {
	if g.keeper == nil {
		return
	}
	select {
	case g.verdicts <- v:
	case <-g.background.Done():
	}
}

// hear tells the origin of the objects.
func (g *gateway) hear(s serve.State) {
	if g.origin.told != nil {
		g.origin.told(s)
	}
}

// judge takes Envoy's verdicts until ctx ends. What it refuses is looked for, and left out, so that it holds up nothing else.
func (g *gateway) judge(ctx context.Context) {
	for {
		select {
		case v := <-g.verdicts:
			g.take(v)
		case <-ctx.Done():
			return
		}
	}
}

func (g *gateway) take(v any) {
	g.compiling.Lock()
	defer g.compiling.Unlock()
	again := false
	switch v := v.(type) {
	case servedVersion:
		again = g.keeper.Served(string(v))
	case serve.Refusal:
		named, sent := compile.Blamed(v.TypeURL, v.Names, v.Reason)
		if again = g.keeper.Refused(accept.Refusal{Version: v.Version, Reason: v.Reason, Named: named, Sent: sent}); !again {
			g.hopeless.Store(v.Version)
			g.hear(g.publisher.State())
		}
	}
	if again && g.reading != nil {
		g.serveReading()
	}
}

// settled is a state without the refusal of a version whose objects are being judged one by one.
func (g *gateway) settled(s serve.State) serve.State {
	if s.Rejected != "" && g.hopeless.Load() != s.Rejected {
		s.Rejected, s.Reason = "", ""
	}
	return s
}
