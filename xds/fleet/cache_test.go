package fleet

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/source"
)

func TestStartFromTheCache(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		path := filepath.Join(dir, "objects")
		files := r.ca.issue(t, t.TempDir(), "gateway.team-a.svc", 1000*time.Hour)
		options := func(o *ClientOptions) { o.CacheFile, o.TLS = path, files }
		server := r.control("control:1", nil)
		good := world(t, []source.Object{backend("a", "x", 1), route("a", "r", 1)}, map[string]string{"a x": "hunter2hunter2hunter2"})
		server.Set(good, nil)
		refuses := func(objs *source.Objects) string {
			if len(objs.Routes) == 2 {
				return "refused"
			}
			return ""
		}
		client := r.sidecar(options, refuses)
		settle()
		// What Envoy refuses is not kept.
		server.Set(world(t, []source.Object{backend("a", "x", 1), route("a", "r", 1), route("a", "bad", 1)}, nil), nil)
		settle()
		time.Sleep(2 * cacheEvery)
		client.stop()
		server.stop()

		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"hunter2", "Backend", "uid-"} {
			if bytes.Contains(content, []byte(word)) {
				t.Errorf("the file can be read: it has %q", word)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file has mode %v, %v", info.Mode(), err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("in the folder is %v, %v", left, err)
		}

		// The control plane is away.
		client = r.sidecar(options, refuses)
		settle()
		if _, _, calls := client.got(); calls != 0 {
			t.Error("the cache is used before the control plane could answer")
		}
		time.Sleep(cacheAfter)
		settle()
		got, _, _ := client.got()
		requireEqual(t, got, good)
		if h := client.Health(); h.Connected || h.Since.After(time.Now().Add(-cacheAfter)) || h.Reason == "" {
			t.Errorf("health is %+v", h)
		}

		// It comes back with the same: nothing is handed on again, and it hears what is served.
		server = r.control("control:1", nil)
		server.Set(good, nil)
		time.Sleep(time.Minute)
		settle()
		if _, _, calls := client.got(); calls != 1 || !client.Health().Connected {
			t.Errorf("%d calls, health %+v", calls, client.Health())
		}
		if state := server.Clients()[0]; state.Serving.Digest != good.Digest() {
			t.Errorf("the client is %+v", state)
		}
		client.stop()

		// A start with the control plane there takes the difference to the cache from it.
		server.Set(world(t, []source.Object{backend("a", "x", 2), route("a", "r", 1)}, nil), nil)
		client = r.sidecar(options, refuses)
		settle()
		if got, _, calls := client.got(); calls != 1 || got.Backends[0].Generation != 2 {
			t.Errorf("%d calls", calls)
		}
		client.stop()
		server.stop()
		if strings.Contains(r.logs.String(), "hunter2") {
			t.Errorf("a value is in the log:\n%s", r.logs)
		}
	})
}

// When the key of the certificate changes, the file is sealed anew: it can be read after a restart.
func TestCacheAfterRotation(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		dir, path := t.TempDir(), filepath.Join(t.TempDir(), "objects")
		files := r.ca.issue(t, dir, "gateway.team-a.svc", 1000*time.Hour)
		options := func(o *ClientOptions) { o.CacheFile, o.TLS = path, files }
		server := r.control("control:1", nil)
		good := world(t, []source.Object{backend("a", "x", 1)}, nil)
		server.Set(good, nil)
		client := r.sidecar(options, nil)
		settle()
		r.ca.issue(t, dir, "gateway.team-a.svc", 1000*time.Hour)
		time.Sleep(2 * cacheEvery)
		settle()
		server.stop()
		written, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		client.stop()
		if err := os.WriteFile(path, written, 0o600); err != nil { // as if it had been killed instead
			t.Fatal(err)
		}
		client = r.sidecar(options, nil)
		defer client.stop()
		time.Sleep(cacheAfter)
		settle()
		got, _, _ := client.got()
		requireEqual(t, got, good)
	})
}

func TestUselessCacheFiles(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		files := r.ca.issue(t, t.TempDir(), "gateway.team-a.svc", 1000*time.Hour)
		certs, err := newCertificates(files, r.log)
		if err != nil {
			t.Fatal(err)
		}
		other, err := newCertificates(r.ca.issue(t, t.TempDir(), "gateway.team-a.svc", 1000*time.Hour), r.log)
		if err != nil {
			t.Fatal(err)
		}
		one := (*set)(nil).with(response(t, world(t, []source.Object{backend("a", "x", 1)}, nil), nil))
		sealed := func(scope Scope, key any) []byte {
			out, err := seal(one, scope, key)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		whole := sealed(Scope{}, certs.get().cert.PrivateKey)
		flipped := bytes.Clone(whole)
		flipped[len(flipped)/2] ^= 1
		salted := bytes.Clone(whole)
		salted[len(cacheMagic)] ^= 1
		for name, content := range map[string][]byte{
			"empty": {}, "text": []byte("hello"), "magic only": []byte(cacheMagic), "head only": whole[:headSize], "cut": whole[:len(whole)-1],
			"flipped": flipped, "another salt": salted, "longer": append(bytes.Clone(whole), 0),
			"another key":   sealed(Scope{}, other.get().cert.PrivateKey),
			"another scope": sealed(Scope{Namespaces: []string{"a"}}, certs.get().cert.PrivateKey),
		} {
			path := filepath.Join(t.TempDir(), "objects")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if s, _, err := readCache(path, Scope{}, certs.get().cert.PrivateKey); err == nil || s != nil {
				t.Errorf("%s: it was read: %v", name, err)
			}
		}
		if s, err := unseal(whole, Scope{}, certs.get().cert.PrivateKey); err != nil || s.objs.Len() != 1 {
			t.Errorf("the whole file cannot be read: %v", err)
		}
		if s, _, err := readCache(filepath.Join(t.TempDir(), "none"), Scope{}, certs.get().cert.PrivateKey); s != nil || err != nil {
			t.Errorf("without a file: %v, %v", s, err)
		}
		if _, _, err := readCache(t.TempDir(), Scope{}, certs.get().cert.PrivateKey); err == nil {
			t.Error("a folder was read")
		}

		// Such a file keeps nobody from starting.
		path := filepath.Join(t.TempDir(), "objects")
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		server := r.control("control:1", nil)
		defer server.stop()
		server.Set(one.objs, nil)
		client := r.sidecar(func(o *ClientOptions) { o.CacheFile, o.TLS = path, files }, nil)
		defer client.stop()
		settle()
		got, _, _ := client.got()
		requireEqual(t, got, one.objs)
		if !strings.Contains(r.logs.String(), "cannot be used and is ignored") {
			t.Errorf("nobody was told:\n%s", r.logs)
		}
	})
}

// A folder that cannot be written to is told, and nothing else happens.
func TestCacheThatCannotBeWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		server := r.control("control:1", nil)
		defer server.stop()
		server.Set(world(t, nil, nil), nil)
		client := r.sidecar(func(o *ClientOptions) { o.CacheFile = filepath.Join(t.TempDir(), "none", "objects") }, nil)
		settle()
		client.stop()
		if !strings.Contains(r.logs.String(), "cannot be written") {
			t.Errorf("nobody was told:\n%s", r.logs)
		}
	})
}
