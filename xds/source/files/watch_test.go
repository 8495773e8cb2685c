package files

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/source"
)

// call is one callback of a watch.
type call struct {
	objects  *source.Objects
	problems []source.Problem
}

func (c call) tenants() string {
	var out []string
	for _, x := range c.objects.Consumers {
		out = append(out, x.Name+"="+x.Spec.Tenant)
	}
	return strings.Join(out, " ")
}

func (c call) secrets() string {
	var out []string
	for _, k := range c.objects.APIKeys {
		if s, ok := c.objects.Secrets[source.SecretKeyOf(k.Namespace, *k.Spec.SecretRef)]; ok {
			out = append(out, k.Name+"="+s.Reveal())
		}
	}
	return strings.Join(out, " ")
}

func (c call) said(part string) bool {
	for _, p := range c.problems {
		if strings.Contains(p.String(), part) {
			return true
		}
	}
	return false
}

// watched runs Watch until the test ends. It fails the test when two calls overlap.
type watched struct {
	t     *testing.T
	calls chan call
}

// onlyEvents makes a test fail when it needs the poll.
var onlyEvents = Options{Poll: time.Hour}

func watch(t *testing.T, dir string, opts Options) *watched {
	t.Helper()
	w := &watched{t: t, calls: make(chan call, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var running atomic.Int32
	go func() {
		defer close(done)
		Watch(ctx, dir, testEnv, opts, func(o *source.Objects, p []source.Problem) {
			if running.Add(1) != 1 {
				t.Error("two calls overlap")
			}
			w.calls <- call{o, p}
			running.Add(-1)
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// until waits for the call that ok accepts.
func (w *watched) until(what string, ok func(call) bool) {
	w.t.Helper()
	deadline := time.After(time.Minute) // only a broken watch takes so long
	var last call
	for {
		select {
		case last = <-w.calls:
			if ok(last) {
				return
			}
		case <-deadline:
			w.t.Fatalf("no call with %s; the last one had %v", what, last.problems)
		}
	}
}

func (w *watched) untilTenants(want string) {
	w.t.Helper()
	w.until("consumers "+want, func(c call) bool { return c.tenants() == want && !source.HasErrors(c.problems) })
}

func (w *watched) untilSecrets(want string) {
	w.t.Helper()
	w.until("secrets", func(c call) bool { return c.secrets() == want })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// swap points a symbolic link somewhere else in one step, as a kubelet does.
func swap(t *testing.T, link, target string) {
	t.Helper()
	must(t, os.Symlink(target, link+"_tmp"))
	must(t, os.Rename(link+"_tmp", link))
}

func TestWatchFiles(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": consumer("a", "t1")})
	w := watch(t, dir, onlyEvents)
	w.untilTenants("a=t1")

	put(t, dir, "a.yaml", consumer("a", "t2"))
	w.untilTenants("a=t2")

	put(t, dir, "b.yml", consumer("b", "t1"))
	w.untilTenants("a=t2 b=t1")

	put(t, dir, "x/y/z/c.yaml", consumer("c", "t1"))
	w.untilTenants("a=t2 b=t1 c=t1")
	put(t, dir, "x/y/z/c.yaml", consumer("c", "t2"))
	w.untilTenants("a=t2 b=t1 c=t2")

	// An editor writes beside the file, and renames.
	put(t, dir, ".a.yaml.swp", consumer("a", "t3"))
	must(t, os.Rename(filepath.Join(dir, ".a.yaml.swp"), filepath.Join(dir, "a.yaml")))
	w.untilTenants("a=t3 b=t1 c=t2")

	// Another moves the old file away first.
	must(t, os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "a.yaml~")))
	put(t, dir, "a.yaml", consumer("a", "t4"))
	w.untilTenants("a=t4 b=t1 c=t2")

	must(t, os.Rename(filepath.Join(dir, "x", "y"), filepath.Join(dir, "x", "w")))
	put(t, dir, "x/w/z/c.yaml", consumer("c", "t3"))
	w.untilTenants("a=t4 b=t1 c=t3")

	must(t, os.Remove(filepath.Join(dir, "b.yml")))
	w.untilTenants("a=t4 c=t3")

	put(t, dir, "a.yaml", "")
	w.until("an empty file", func(c call) bool { return c.said("a.yaml: "+emptyFile) && source.HasErrors(c.problems) })
	put(t, dir, "a.yaml", "kind: [\n")
	w.until("a syntax error", func(c call) bool { return c.said("a.yaml:") && source.HasErrors(c.problems) })
	put(t, dir, "a.yaml", consumer("a", "t5"))
	w.untilTenants("a=t5 c=t3")
	put(t, dir, "a.yaml", consumer("a", "t6")+"---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n")
	w.until("an object of somebody else's", func(c call) bool {
		return c.said("Secret s: warning: left out") && !source.HasErrors(c.problems) && c.tenants() == "a=t6 c=t3"
	})
}

func TestWatchFolderDeletedAndCreatedAgain(t *testing.T) {
	dir := filepath.Join(write(t, nil), "config")
	w := watch(t, dir, onlyEvents)
	w.until("no folder", func(c call) bool { return c.said("the folder does not exist") })
	for _, tenant := range []string{"t1", "t2"} {
		put(t, dir, "x/a.yaml", consumer("a", tenant))
		w.untilTenants("a=" + tenant)
		must(t, os.RemoveAll(dir))
		w.until("no folder", func(c call) bool { return c.said("the folder does not exist") })
	}
	// Another folder takes its place.
	put(t, dir+".new", "a.yaml", consumer("a", "t3"))
	must(t, os.Rename(dir+".new", dir))
	w.untilTenants("a=t3")
	must(t, os.Rename(dir, dir+".old"))
	put(t, dir, "a.yaml", consumer("a", "t4"))
	w.untilTenants("a=t4")
	put(t, dir, "a.yaml", consumer("a", "t5"))
	w.untilTenants("a=t5")
}

func TestWatchConfigMap(t *testing.T) {
	base := write(t, map[string]string{
		"cm/..1/a.yaml": consumer("a", "t1") + "---\n" + withSecret("k", "/secret/key"), "cm/..data": "->..1", "cm/a.yaml": "->..data/a.yaml",
		"secret/..1/key": "one", "secret/..data": "->..1", "secret/key": "->..data/key",
	})
	dir := filepath.Join(base, "cm")
	document := func(tenant string) string {
		return consumer("a", tenant) + "---\n" + withSecret("k", filepath.Join(base, "secret/key"))
	}
	put(t, dir, "..1/a.yaml", document("t1"))
	w := watch(t, dir, onlyEvents)
	w.untilTenants("a=t1")
	for _, next := range []string{"2", "3"} {
		put(t, dir, "..t"+next+"/a.yaml", document("t"+next))
		swap(t, filepath.Join(dir, "..data"), "..t"+next)
		w.untilTenants("a=t" + next)

		put(t, base, "secret/..s"+next+"/key", "value "+next)
		swap(t, filepath.Join(base, "secret/..data"), "..s"+next)
		w.untilSecrets("k=value " + next)
	}
	// The next version brings a file more, whose link comes after the swap.
	put(t, dir, "..4/a.yaml", document("t4"))
	put(t, dir, "..4/b.yaml", consumer("b", "t4"))
	swap(t, filepath.Join(dir, "..data"), "..4")
	put(t, dir, "b.yaml", "->..data/b.yaml")
	w.untilTenants("a=t4 b=t4")
}

func TestWatchLinks(t *testing.T) {
	base := write(t, map[string]string{
		"v1/a.yaml": consumer("a", "t1"), "v2/a.yaml": consumer("a", "t2"), "config": "->v1",
		"elsewhere/b.yaml": consumer("b", "t1"), "v2/b.yaml": "->../elsewhere/b.yaml",
	})
	w := watch(t, filepath.Join(base, "config"), onlyEvents)
	w.untilTenants("a=t1")
	swap(t, filepath.Join(base, "config"), "v2")
	w.untilTenants("a=t2 b=t1")
	put(t, base, "elsewhere/b.yaml", consumer("b", "t2"))
	w.untilTenants("a=t2 b=t2")
	put(t, base, "v2/a.yaml", consumer("a", "t3"))
	w.untilTenants("a=t3 b=t2")
}

func TestWatchSecretFiles(t *testing.T) {
	base := write(t, map[string]string{"config/a.yaml": withSecret("k", "../run/secrets/key"),
		"config/b.yaml": `{apiVersion: weir.dev/v1alpha1, kind: JWTIssuer, metadata: {name: j}, spec: {issuer: i, audiences: [a], keys: {file: ../jwks}}}`})
	w := watch(t, filepath.Join(base, "config"), onlyEvents)
	w.until("no secret", func(c call) bool { return c.said("key cannot be read") && c.said("jwks cannot be read") })
	put(t, base, "run/secrets/key", "one")
	w.untilSecrets("k=one")
	put(t, base, "run/secrets/key", "two\n")
	w.untilSecrets("k=two")
	put(t, base, "run/secrets/key.tmp", "three")
	must(t, os.Rename(filepath.Join(base, "run/secrets/key.tmp"), filepath.Join(base, "run/secrets/key")))
	w.untilSecrets("k=three")
	put(t, base, "run/secrets/key", "")
	w.until("an empty secret", func(c call) bool { return c.said("is empty") })
	must(t, os.RemoveAll(filepath.Join(base, "run")))
	w.until("no secret", func(c call) bool { return c.said("key cannot be read") })
	put(t, base, "run/secrets/key", "four")
	w.untilSecrets("k=four")

	jwks := func(c call) string { return c.objects.Secrets[source.FileKeyOf(filepath.Join(base, "jwks"))].Reveal() }
	put(t, base, "jwks", "{}")
	w.until("a key set", func(c call) bool { return jwks(c) == "{}" && !source.HasErrors(c.problems) })
	put(t, base, "jwks", `{"keys":[]}`)
	w.until("another key set", func(c call) bool { return jwks(c) == `{"keys":[]}` })
}

// A key set beside the documents, with an ending like theirs, reloads as one elsewhere does.
func TestWatchKeySetInFolder(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": consumer("a", "t1"), "jwks.json": `{"keys":[1]}`})
	w := watch(t, dir, onlyEvents)
	w.until("a hint", func(c call) bool { return c.said("looks like a key set") })
	jwks := func(want string) {
		t.Helper()
		w.until(want, func(c call) bool {
			return c.objects.Secrets[source.FileKeyOf(filepath.Join(dir, "jwks.json"))].Reveal() == want && !source.HasErrors(c.problems)
		})
	}
	put(t, dir, "j.yaml", issuer("jwks.json", ""))
	jwks(`{"keys":[1]}`)
	put(t, dir, "jwks.json", `{"keys":[2]}`)
	jwks(`{"keys":[2]}`)
	put(t, dir, "jwks.json.tmp", `{"keys":[3]}`)
	must(t, os.Rename(filepath.Join(dir, "jwks.json.tmp"), filepath.Join(dir, "jwks.json")))
	jwks(`{"keys":[3]}`)
	put(t, dir, "jwks.json", "")
	w.until("an empty key set", func(c call) bool { return c.said("jwks.json is empty") && !c.said(emptyFile) })
	put(t, dir, "jwks.json", `{"keys":[4]}`)
	jwks(`{"keys":[4]}`)
	must(t, os.Remove(filepath.Join(dir, "j.yaml")))
	w.until("the hint again", func(c call) bool { return c.said("looks like a key set") })
}

// Constant writing does not put the callback off for ever.
func TestWatchConstantWrites(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": consumer("a", "t1")})
	w := watch(t, dir, onlyEvents)
	w.untilTenants("a=t1")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(filepath.Join(dir, "noise.txt"), []byte("x"), 0o600)
			}
		}
	}()
	put(t, dir, "a.yaml", consumer("a", "t2"))
	w.untilTenants("a=t2")
	close(stop)
	<-stopped
}

// Where the system sends no events, the poll finds everything.
func TestWatchPoll(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": consumer("a", "t1"), "k.yaml": withSecret("k", "key"), "key": "one"})
	calls := make(chan call, 100)
	w := newWatcher(dir, testEnv, Options{Poll: time.Millisecond}, func(o *source.Objects, p []source.Problem) { calls <- call{o, p} })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	defer func() { cancel(); <-done }()
	seen := &watched{t: t, calls: calls}
	seen.untilTenants("a=t1")
	put(t, dir, "a.yaml", consumer("a", "t2")) // the same size, perhaps within one tick of the file system's clock
	seen.untilTenants("a=t2")
	put(t, dir, "key", "two")
	seen.untilSecrets("k=two")
	must(t, os.RemoveAll(dir))
	seen.until("no folder", func(c call) bool { return c.said("the folder does not exist") })
}

// A reading that finds the same bytes tells nobody; a file that was truncated a moment ago gets time.
func TestReload(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": consumer("a", "t1"), "b.yaml": consumer("b", "t1")})
	calls := 0
	clk := &manualClock{now: time.Unix(1000, 0)}
	w := newWatcher(dir, testEnv, Options{Clock: clk}, func(*source.Objects, []source.Problem) { calls++ })
	w.last = w.read()
	timer := clk.NewTimer(time.Hour)
	reload := func() {
		w.event(timer)
		w.reload(timer)
	}

	reload()
	put(t, dir, "a.yaml", consumer("a", "t1")) // touched, not changed
	reload()
	if calls != 0 {
		t.Fatalf("%d calls without a change", calls)
	}
	put(t, dir, "a.yaml", consumer("a", "t2"))
	reload()
	if calls != 1 {
		t.Fatalf("%d calls after one change", calls)
	}
	put(t, dir, "a.yaml", "")
	reload()
	if calls != 1 || !w.burst.Pending() {
		t.Fatalf("%d calls: a truncated file was taken for the new content", calls)
	}
	clk.now = clk.now.Add(w.opts.MaxDelay)
	w.reload(timer)
	if calls != 2 || w.burst.Pending() {
		t.Fatalf("%d calls: an empty file was held back for ever", calls)
	}
}

// manualClock stands still.
type manualClock struct {
	clock.RealClock
	now time.Time
}

func (c *manualClock) Now() time.Time { return c.now }

func TestWatchPoints(t *testing.T) {
	base, err := filepath.EvalSymlinks(write(t, map[string]string{
		"secret/..1/key": "x", "secret/..data": "->..1", "secret/key": "->..data/key", "loop": "->loop"}))
	must(t, err)
	for _, tc := range []struct {
		path string
		want []watchPoint
	}{
		{"secret/..1/key", []watchPoint{{base + "/secret/..1", "key"}}},
		{"secret/key", []watchPoint{{base + "/secret", "key"}, {base + "/secret", "..data"}, {base + "/secret/..1", "key"}}},
		{"secret/none", []watchPoint{{base + "/secret", "none"}}},
		{"none/at/all", []watchPoint{{base, "none"}}},
	} {
		got := watchPoints(filepath.Join(base, tc.path))
		if len(got) != len(tc.want) {
			t.Errorf("%s: got %v, want %v", tc.path, got, tc.want)
			continue
		}
		for i := range got {
			if got[i] != tc.want[i] {
				t.Errorf("%s: got %v, want %v", tc.path, got, tc.want)
			}
		}
	}
	if got := watchPoints(filepath.Join(base, "loop")); len(got) == 0 {
		t.Error("a link to itself is watched nowhere")
	}
}
