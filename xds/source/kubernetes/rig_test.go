package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/xds/source"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// patience is how long something may take on a slow machine before a test fails.
const patience = 60 * time.Second

// snapshot is one call of a watch.
type snapshot struct {
	objects  *source.Objects
	problems []source.Problem
}

// said joins the problems, one in a line.
func (r snapshot) said() string {
	var b strings.Builder
	for _, p := range r.problems {
		fmt.Fprintf(&b, "%s [%s]\n", p, p.Reason)
	}
	return b.String()
}

// names lists what was read as kind/name.
func (r snapshot) names() string {
	var out []string
	for _, obj := range r.objects.All() {
		ref := source.RefOf(obj)
		out = append(out, ref.Kind+"/"+ref.Name)
	}
	return strings.Join(out, " ")
}

// secret is the value of a key that an object points to.
func (r snapshot) secrets() string {
	var out []string
	for key, value := range r.objects.Secrets {
		out = append(out, key.String()+"="+value.Reveal())
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// servers are the endpoints of a Backend; "none" where it has none, "?" where they are not known.
func (r snapshot) servers(namespace, name string) string {
	list, ok := r.objects.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: namespace, Name: name}]
	if !ok {
		return "?"
	}
	if len(list) == 0 {
		return "none"
	}
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s:%d", e.Address, e.Port))
	}
	return strings.Join(out, " ")
}

// watched is a Watch that runs.
type watched struct {
	t      *testing.T
	source *Source
	stop   func()

	mu    sync.Mutex
	calls []snapshot
	news  chan struct{} // closed by the next call
}

// quick are options for tests: nothing waits long.
func quick(config *rest.Config, namespaces ...string) Options {
	return Options{Config: config, Namespaces: namespaces, RetryDelay: 100 * time.Millisecond, Poll: 20 * time.Millisecond}
}

// running counts the Watches that run: goroutines belong to the process.
var running atomic.Int32

// follow starts a Watch, which ends with the test or by stop; then nothing that it started runs any more.
func follow(t *testing.T, opts Options) *watched {
	t.Helper()
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	running.Add(1)
	w := &watched{t: t, source: s, news: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(ctx, w.call)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Errorf("Watch has not returned:\n%s", stacks())
			return
		}
		if running.Add(-1) > 0 {
			return // those of another one are not told from its own
		}
		poll(t, "goroutines are left", func() (bool, string) { s := stacks(); return s == "", s })
	})
	t.Cleanup(w.stop)
	return w
}

func (w *watched) call(objects *source.Objects, problems []source.Problem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, snapshot{objects, problems})
	close(w.news)
	w.news = make(chan struct{})
}

func (w *watched) last() (snapshot, int, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.calls) == 0 {
		return snapshot{objects: source.NewObjects()}, 0, w.news
	}
	return w.calls[len(w.calls)-1], len(w.calls), w.news
}

// await waits for a reading that shows what is wanted, and returns it.
func (w *watched) await(want string, show func(snapshot) string) snapshot {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		r, n, news := w.last()
		if n > 0 && show(r) == want {
			return r
		}
		select {
		case <-news:
		case <-deadline:
			w.t.Fatalf("after %d readings there is %q, want %q; problems: %s; %+v", n, show(r), want, r.said(), w.source.Health())
		}
	}
}

// awaitSaid waits for a reading with a problem that holds all parts.
func (w *watched) awaitSaid(parts ...string) snapshot {
	w.t.Helper()
	return w.await("said", func(r snapshot) string {
		for _, line := range strings.Split(r.said(), "\n") {
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				return "said"
			}
		}
		return "not said: " + strings.Join(parts, " ... ")
	})
}

// poll asks until the answer is yes.
func poll(t testing.TB, what string, ask func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, detail := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, detail)
		}
		runtime.Gosched()
		<-time.After(time.Millisecond) // between two questions
	}
}

// stacks are those of goroutines of the source or of what it started.
func stacks() string {
	buf := make([]byte, 4<<20)
	var out []string
	for _, s := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, part := range []string{"kubernetes.(*feed", "kubernetes.(*converting", "kubernetes.(*watcher", "kubernetes.interruptible", "cache.(*Reflector", "watch.(*StreamWatcher"} {
			if strings.Contains(s, part) {
				out = append(out, s)
				break
			}
		}
	}
	return strings.Join(out, "\n\n")
}

// lists counts the lists that are followed.
func lists() int { return strings.Count(stacks(), "kubernetes.(*feed[...]).run(") }

// apply applies documents to a namespace.
func apply(t testing.TB, c *kubetest.Cluster, namespace, documents string) {
	t.Helper()
	if _, err := c.Apply(t.Context(), []byte(documents), kubetest.ApplyOptions{Namespace: namespace}); err != nil {
		t.Fatal(err)
	}
}

func consumer(name, tenant string) string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: %s}\nspec: {tenant: %s}\n", name, tenant)
}

// backend is a Backend with more fields of its spec, in YAML's flow style.
func backend(name, more string) string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: %s}\nspec: {dialect: openai, %s}\n", name, more)
}

func withSecret(ref string) string {
	return "url: 'https://api.example.com/v1', credential: {secretRef: " + ref + "}"
}

func secret(name, key, value string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData: {%s: %q}\n", name, key, value)
}

// logged is a log that a test reads.
func logged() (*slog.Logger, func() string) {
	var mu sync.Mutex
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	}), nil))
	return log, func() string { mu.Lock(); defer mu.Unlock(); return b.String() }
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
