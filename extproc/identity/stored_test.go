package identity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func storedKey(name, consumer, key string) *StoredKey {
	return NewStoredKey(Key{Namespace: "default", Name: name, Consumer: consumer, Hash: sha256.Sum256([]byte(key)),
		Prefix: "weir_x", AllowedModels: []string{"gpt-*"}, RequestsPerMinute: 7})
}

// TestStoredKeys: a change is seen at once, in every Authenticator, and in the light of each one's consumers.
func TestStoredKeys(t *testing.T) {
	store := &StoredKeys{}
	cfg := testConfig()
	cfg.Stored = store
	first := newAuthenticator(t, cfg, nil)
	const key = "stored-0123456789abcdef"
	// Before the store was read nobody knows, but what is no matter of the store works.
	id, err := login(first, bearer(key), t0)
	mustRefuse(t, id, err, 503, CodeKeysUnavailable)
	if got := try(first, demoKey, t0); got.status != 200 {
		t.Errorf("%+v", got)
	}
	store.Replace(nil)
	id, err = login(first, bearer(key), t0)
	mustRefuse(t, id, err, 401, CodeInvalidKey)

	k := storedKey("s", "batch", key)
	store.Replace([]*StoredKey{k})
	if store.Len() != 1 {
		t.Errorf("%d keys", store.Len())
	}
	id, err = login(first, bearer(key), t0)
	if err != nil {
		t.Fatal(err)
	}
	if id.Tenant != "research" || id.KeyID != "default/key:s" || id.CredentialID != id.KeyID || id.KeyPrefix != "weir_x" || id.RequestsPerMinute != 7 || id.MayUse("claude-x") || !id.MayUse("gpt-5") {
		t.Errorf("%+v", id)
	}
	if again, _ := login(first, bearer(key), t0); again != id {
		t.Error("the identity of a stored key is not shared")
	}

	// A new configuration sees the same key in its own way; the old one still serves.
	cfg.Consumers[1].Tenant = "moved"
	second := newAuthenticator(t, cfg, nil)
	for range 2 {
		if id, err := login(second, bearer(key), t0); err != nil || id.Tenant != "moved" {
			t.Errorf("%+v, %v", id, err)
		}
		if id, err := login(first, bearer(key), t0); err != nil || id.Tenant != "research" {
			t.Errorf("%+v, %v", id, err)
		}
	}

	off := *k.Key()
	off.Disabled = true
	store.Replace([]*StoredKey{NewStoredKey(off)})
	for _, a := range []*Authenticator{first, second} {
		id, err := login(a, bearer(key), t0)
		mustRefuse(t, id, err, 401, CodeInvalidKey)
	}
	store.Replace(nil)
	id, err = login(first, bearer(key), t0)
	mustRefuse(t, id, err, 401, CodeInvalidKey)
}

// TestStoredProblems: what lets nobody in is reported, and objects win over stored keys.
func TestStoredProblems(t *testing.T) {
	store := &StoredKeys{}
	cfg := testConfig()
	cfg.Stored = store
	a := newAuthenticator(t, cfg, nil)
	const key = "stored-0123456789abcdef"
	peppered := Key{Namespace: "default", Name: "hmac", Consumer: "demo", Kind: HashHMAC, Hash: [32]byte{1}}
	network := Key{Namespace: "default", Name: "net", Consumer: "demo", Hash: [32]byte{2}, AllowedCIDRs: []string{"x"}}
	for _, c := range []struct {
		key  *StoredKey
		says string
	}{
		{storedKey("fine", "demo", key), ""},
		{storedKey("orphan", "gone", "orphan-0123456789abcdef"), `stored key default/orphan: spec.consumer: there is no valid Consumer "gone"`},
		{storedKey("demo", "batch", "name-0123456789abcdef"), "stored key default/demo: an APIKey object has the same namespace and name"},
		{storedKey("same", "batch", demoKey), "stored key default/same: spec.hash: an APIKey object holds the same key"},
		{NewStoredKey(peppered), "stored key default/hmac: spec.hash: the hash is made with a pepper"},
		{NewStoredKey(network), "stored key default/net: spec.allowedCIDRs"},
	} {
		store.Replace([]*StoredKey{c.key, storedKey("twice", "demo", "twice-0123456789abcdef"), storedKey("twice-2", "demo", "twice-0123456789abcdef")})
		errs := a.StoredProblems()
		text := errors.Join(errs...).Error()
		if !strings.Contains(text, "stored key default/twice-2: spec.hash: another stored key") || len(errs) > 2 {
			t.Errorf("%v", errs)
		}
		if c.says == "" && len(errs) != 1 || c.says != "" && (len(errs) != 2 || !strings.Contains(text, c.says)) {
			t.Errorf("problems %q, want %q", text, c.says)
		}
		if id, err := login(a, bearer(demoKey), t0); err != nil || id.Credential != "key:demo" {
			t.Errorf("the object's key: %+v, %v", id, err)
		}
	}
	id, err := login(a, bearer("orphan-0123456789abcdef"), t0)
	mustRefuse(t, id, err, 401, CodeInvalidKey)
}

// TestStoredAllocations: a stored key costs no allocation, with a pepper neither.
func TestStoredAllocations(t *testing.T) {
	a := newAuthenticator(t, attackConfig(), nil)
	for name, cred := range map[string]string{"stored, peppered": goodStoredKey, "peppered": pepperedKey, "plain": goodKey} {
		h := bearer(cred)
		if got := testing.AllocsPerRun(100, func() {
			if _, err := login(a, h, t0); err != nil {
				t.Fatal(err)
			}
		}); got > 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func TestStoredConcurrent(t *testing.T) {
	store := &StoredKeys{}
	cfg := testConfig()
	cfg.Stored = store
	list := make([]*StoredKey, 50)
	for i := range list {
		list[i] = storedKey(fmt.Sprint("k", i), "demo", fmt.Sprint("stored-0123456789abcdef-", i))
	}
	store.Replace(list)
	one, two := newAuthenticator(t, cfg, nil), newAuthenticator(t, cfg, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 400 {
				a := []*Authenticator{one, two}[(i+g)%2]
				id, err := login(a, bearer(fmt.Sprint("stored-0123456789abcdef-", i%50)), t0)
				if err != nil || id.Credential != fmt.Sprint("key:k", i%50) {
					t.Errorf("%+v, %v", id, err)
					return
				}
				if i%20 == 0 {
					store.Replace(list)
				}
			}
		})
	}
	wg.Wait()
	if errs := one.StoredProblems(); len(errs) != 0 {
		t.Error(errs)
	}
}
