package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// demoKeyAnnotation on an APIKey holds the key itself, for a banner that can be pasted. Only for keys that are no secret.
const demoKeyAnnotation = "weir.dev/demo-key"

// banner says where the gateway is and what to paste: on standard error, because standard output belongs to the lines of the access
// log, and as a line of the log where a machine reads that.
func (g *gateway) banner(objs *source.Objects, base string) {
	if g.opts.machineLog() {
		g.log.Info("the gateway is ready", "version", buildVersion(), "gateway", base, "console", g.adminURL(), "objects", g.opts.dir)
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nWeir %s is ready.\n\n", buildVersion())
	fmt.Fprintf(&b, "  gateway   %s   (OpenAI SDKs: %s/v1, Anthropic SDKs: %s)\n", base, base, base)
	fmt.Fprintf(&b, "  console   %s   (topology, live requests, usage, playground, client set-up)\n", g.adminURL())
	fmt.Fprintf(&b, "  admin     %s   (healthz readyz metrics api/status)\n", g.adminURL())
	fmt.Fprintf(&b, "  objects   %s   (%s; edit them, changes are live in a second)\n", g.opts.dir, summary(objs))
	key := "$KEY"
	for _, k := range objs.APIKeys {
		if demo := k.Annotations[demoKeyAnnotation]; demo != "" {
			key = demo
			fmt.Fprintf(&b, "  demo key  %s\n", demo)
			break
		}
	}
	b.WriteString("\nBackends:\n")
	for _, o := range objs.Backends {
		fmt.Fprintf(&b, "  %-22s %-10s %s\n", o.Namespace+"/"+o.Name, o.Spec.Dialect, where(o))
	}
	b.WriteString("\nTry:\n")
	for _, line := range tryLines(base, key, objs.Backends) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	b.WriteString("\nCtrl-C drains and stops.\n\n")
	fmt.Fprint(os.Stderr, b.String())
}

func where(o *v1alpha1.Backend) string {
	s := o.Spec.URL
	if s == "" {
		s = fmt.Sprintf("%d endpoints", len(o.Spec.Endpoints))
	}
	if o.Annotations[simulatorAnnotation] == "true" {
		s += "  (simulated)"
	}
	return s
}

// tryLines are three requests, each for a model of another backend where there are as many.
func tryLines(base, key string, backends []*v1alpha1.Backend) []string {
	var models []string
	for _, b := range backends {
		if len(b.Spec.Models) > 0 && len(models) < 3 {
			models = append(models, string(b.Spec.Models[0].Name))
		}
	}
	if len(models) == 0 {
		models = []string{"MODEL"}
	}
	model := func(i int) string { return models[i%len(models)] }
	const json = `-H 'content-type: application/json'`
	return []string{
		fmt.Sprintf(`curl -s %s/v1/chat/completions -H "authorization: Bearer %s" %s -d '{"model":"%s","messages":[{"role":"user","content":"Hello"}]}'`, base, key, json, model(0)),
		fmt.Sprintf(`curl -sN %s/v1/chat/completions -H "authorization: Bearer %s" %s -d '{"model":"%s","stream":true,"messages":[{"role":"user","content":"Hello"}]}'`, base, key, json, model(1)),
		fmt.Sprintf(`curl -sN %s/v1/messages -H "x-api-key: %s" -H 'anthropic-version: 2023-06-01' %s -d '{"model":"%s","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"Hello"}]}'`, base, key, json, model(2)),
	}
}
