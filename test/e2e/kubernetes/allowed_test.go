package kubernetes

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// TestAllowedRoutes: a tenant's Routes take what the LLMGateway leaves to its namespace, and no request of others.
func TestAllowedRoutes(t *testing.T) {
	t.Parallel()
	infra := newRig(t)
	team := &rig{t: t, cluster: infra.cluster, ns: infra.cluster.Namespace(t), kubeconfig: infra.kubeconfig}
	up, theirs := newSim(t, "gpt-4o"), newSim(t, "gpt-4o")
	infra.secret("key-up", map[string]string{"value": "upstream-secret"})
	team.secret("key-theirs", map[string]string{"value": "upstream-secret"})
	label := func(value string) {
		infra.patch(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team.ns}}, fmt.Sprintf(`{"metadata":{"labels":{"tenants":%s}}}`, value))
	}
	label(`"yes"`)
	const selected = "allowedRoutes: [{}, {namespaces: {from: Selector, selector: {matchLabels: {tenants: 'yes'}}}, pathPrefixes: ['/{namespace}']}]"
	gateway := infra.apply(harness.Listener(selected), harness.Consumer("app", harness.DefaultKey, ""), backend("up", up, "gpt-4o"), route("all", "gpt-4o", "{name: up}"))
	const greedy = "rules: [{matches: [{path: {type: Exact, value: /v1/chat/completions}}], backends: [{name: theirs}]}]"
	own := team.apply(backend("theirs", theirs, "gpt-4o"), harness.Route("own", "rules: [{matches: [{path: {value: /"+team.ns+"}}], backends: [{name: theirs}]}]"))
	taker := team.apply(harness.Route("taker", greedy))[0]
	g := infra.serve("weir-0", harness.Options{Args: []string{"--namespace", team.ns}})
	infra.awaitProgrammed(gateway)
	team.awaitProgrammed(own)
	team.awaitCondition(taker, "Accepted", "NotAllowedByGateway", "spec.rules[0].matches[0].path: LLMGateway "+infra.ns+"/e2e takes from the namespace "+team.ns+" only matches with a path below /"+team.ns)
	eventually(t, "an Event tells of it", func() (bool, string) {
		var list eventsv1.EventList
		must(t, team.cluster.Client.List(t.Context(), &list, client.InNamespace(team.ns)))
		for _, e := range list.Items {
			if e.Regarding.Name == "taker" && e.Type == "Warning" && e.Reason == "NotAllowedByGateway" {
				return true, ""
			}
		}
		return false, fmt.Sprint(len(list.Items), " events")
	})
	serves := func(below, backend string) {
		t.Helper()
		ask{model: "gpt-4o", backend: backend}.mustServe(t, g.URL+below)
	}
	serves("", infra.ns+"/up")
	serves("/"+team.ns, team.ns+"/theirs")

	// The same is told without a gateway.
	out, code := infra.command("validate", "--namespace", team.ns)
	if code != 1 || !strings.Contains(out, "Route "+team.ns+"/taker: spec.rules[0].matches[0].path: LLMGateway") {
		t.Errorf("weir validate: exit code %d\n%s", code, out)
	}

	// A Route that was taken keeps what it had when it asks for more. A namespace that is not selected any more has nothing.
	own[1] = team.apply(harness.Route("own", greedy))[0]
	team.awaitCondition(own[1], "Programmed", "Invalid", "generation 1 goes on being served, on 1 of 1 replica")
	serves("", infra.ns+"/up")
	serves("/"+team.ns, team.ns+"/theirs")
	label("null")
	team.awaitCondition(own[1], "Accepted", "NotAllowedByGateway", "no entry of spec.allowedRoutes of LLMGateway "+infra.ns+"/e2e is for Routes of the namespace "+team.ns)
	eventually(t, "nothing of the namespace is served", func() (bool, string) {
		got, err := ask{model: "gpt-4o"}.send(t.Context(), http.DefaultClient, g.URL+"/"+team.ns)
		return err == nil && got.backend != team.ns+"/theirs", fmt.Sprint(got.status, got.backend, err)
	})
	label(`"yes"`)
	own[1] = team.apply(harness.Route("own", "rules: [{matches: [{path: {value: /"+team.ns+"}}], backends: [{name: theirs}]}]"))[0]
	team.awaitProgrammed(own)
	serves("/"+team.ns, team.ns+"/theirs")
}
