package main

import (
	"fmt"
	"net"
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
		at := g.adminURL()
		if g.consoleShut() {
			at = shutConsole
		}
		g.log.Info("the gateway is ready", "version", buildVersion(), "gateway", base, "console", at, "objects", g.objectsFrom())
		return
	}
	fmt.Fprint(os.Stderr, g.bannerText(objs, base))
}

// shutConsole stands where the address of the console would.
const shutConsole = "shut: the admin address can be reached from other machines and no login is set up; set " + adminTokenVariable +
	", --admin-token-file or --admin-oidc-issuer, or a loopback address by --admin"

// consoleShut says whether nobody is let in to the console, for want of a login.
func (g *gateway) consoleShut() bool {
	at, err := net.ResolveTCPAddr("tcp", g.opts.admin)
	if err != nil {
		return false // it could not have been listened on
	}
	door, err := g.door(at, g.opts.certFile != "")
	return err == nil && door.Shut()
}

func (g *gateway) bannerText(objs *source.Objects, base string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nWeir %s is ready.\n\n", buildVersion())
	fmt.Fprintf(&b, "  gateway   %s   (OpenAI SDKs: %s/v1, Anthropic SDKs: %s)\n", base, base, base)
	if g.consoleShut() {
		fmt.Fprintf(&b, "  console   %s\n", shutConsole)
		fmt.Fprintf(&b, "  admin     %s   (healthz readyz metrics)\n", g.adminURL())
	} else {
		fmt.Fprintf(&b, "  console   %s   (topology, live requests, usage, playground, client set-up)\n", g.adminURL())
		fmt.Fprintf(&b, "  admin     %s   (healthz readyz metrics api/status)\n", g.adminURL())
	}
	fmt.Fprintf(&b, "  objects   %s   (%s; edit them, changes are live in a second)\n", g.objectsFrom(), summary(objs))
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
	return b.String()
}

// objectsFrom says where objects come from, a folder by its name.
func (g *gateway) objectsFrom() string { return strings.TrimPrefix(g.origin.String(), "folder ") }

func where(o *v1alpha1.Backend) string {
	s := o.Spec.URL
	switch {
	case o.Spec.Discovered():
		s = "servers found in the cluster"
	case s == "":
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
