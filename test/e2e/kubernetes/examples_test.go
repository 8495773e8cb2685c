package kubernetes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/e2e/harness"
)

const examplesDir = "../../../deploy/examples"

// environment is what the README of the examples tells a reader to set.
var environment = []string{
	"OPENAI_API_KEY=sk-openai-example", "ANTHROPIC_API_KEY=sk-anthropic-example", "DASHSCOPE_API_KEY=sk-dashscope-example",
	"APP_KEY=app-key-of-some-length", "RESEARCH_KEY=research-key-of-some-length", "SUPPORT_KEY=support-key-of-some-length",
	"SESSION_KEY=" + strings.Repeat("5e", 32),
}

const (
	appKey     = "app-key-of-some-length"
	supportKey = "support-key-of-some-length"
)

// example is a folder of deploy/examples, and what is asked of it once its servers are simulated.
type example struct {
	namespaces []string // that its documents name
	asks       []ask
}

var examples = map[string]example{
	"single-provider": {asks: []ask{{model: "gpt-4o", key: appKey}, {model: "gpt-4o-mini", key: appKey, stream: true}}},
	"fallback":        {asks: []ask{{model: "assistant", key: appKey}}},
	"vllm-pool":       {asks: []ask{{model: "llama-3.3-70b", key: appKey, stream: true}}},
	"gpu-pool":        {},
	"jwt":             {},
	"canary":          {asks: []ask{{model: "assistant", key: appKey}}},
	"limits":          {asks: []ask{{model: "gpt-4o", key: appKey}}},
	"teams":           {asks: []ask{{model: "assistant", key: supportKey}}},
	"cache":           {asks: []ask{{model: "gpt-4o", key: appKey}, {model: "gpt-4o", key: appKey, stream: true}}},
	"sessions":        {asks: []ask{{model: "gpt-4o", key: appKey}, {model: "gpt-4o-mini", key: appKey, stream: true}}},
	"shared-pool":     {namespaces: []string{"apps", "gpu"}, asks: []ask{{model: "assistant", key: appKey}}},
}

// scenarios are not objects.
const scenarios = "simulate"

// TestExamples applies each folder of deploy/examples as it is: everything is programmed. Then its servers are replaced by simulated ones, which is
// another generation, and requests are served.
func TestExamples(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(examplesDir)
	must(t, err)
	provider := newSim(t, "gpt-4o", "gpt-4o-mini", "gpt-5", "llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct")
	for _, e := range entries {
		if !e.IsDir() || e.Name() == scenarios {
			continue
		}
		x, known := examples[e.Name()]
		if !known {
			t.Errorf("the folder %s is not in this test", e.Name())
		}
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			x.check(t, filepath.Join(examplesDir, e.Name()), provider)
		})
	}
}

func (x example) check(t *testing.T, dir string, provider *harness.Sim) {
	r := newRig(t)
	for _, name := range x.namespaces {
		r.named(name)
	}
	objects := r.cluster.ApplyDir(t, dir, r.ns)
	t.Cleanup(func() {
		for _, o := range objects { // those of namespaces with fixed names do not go with the namespace
			if err := r.cluster.Client.Delete(context.Background(), o); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	})
	namespaces := append(slices.Clone(x.namespaces), r.ns)
	g := r.serve("examples", harness.Options{
		Args: []string{"--namespace", strings.Join(namespaces, ","), "--local-secrets", strings.Join(namespaces, ",")}, Env: environment,
	})
	took := r.awaitProgrammed(objects)
	t.Logf("%d objects programmed %v after weir was ready", len(objects), took)

	for _, o := range objects {
		if o.GetKind() != "Backend" || len(x.asks) == 0 {
			continue
		}
		if _, pool := o.Object["spec"].(map[string]any)["endpoints"]; pool {
			host, port, _ := strings.Cut(provider.Address(), ":")
			r.patch(o, fmt.Sprintf(`{"spec":{"endpoints":[{"address":%q,"port":%s}],"credential":{"secretRef":{"env":"OPENAI_API_KEY"}}}}`, host, port))
		} else {
			r.patch(o, fmt.Sprintf(`{"spec":{"url":%q}}`, provider.BaseURL()))
		}
	}
	r.awaitProgrammed(objects)
	for _, a := range x.asks {
		a.mustServe(t, g.URL)
	}
	for _, o := range objects {
		if s := r.status(o); o.GetKind() == "LLMGateway" && s.condition(v1alpha1.ConditionProgrammed).Message != "programmed on 1 of 1 replica" {
			t.Errorf("the status of the gateway is: %s", s.String())
		}
	}
	if strings.Contains(g.Logs(), "sk-openai-example") || strings.Contains(g.Logs(), appKey) {
		t.Error("the log shows a secret")
	}
}

// named makes a namespace with a name that documents have in them.
func (r *rig) named(name string) {
	r.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := r.cluster.Client.Create(r.t.Context(), ns); err != nil && !apierrors.IsAlreadyExists(err) {
		r.t.Fatal(err)
	}
}
