package identity

import (
	"testing"
	"time"
)

// TestLasting: what was decided about a caller lasts only as long as his credential stands for the same.
func TestLasting(t *testing.T) {
	store := &StoredKeys{}
	cfg := testConfig()
	cfg.Stored = store
	a := newAuthenticator(t, cfg, nil)
	const key = "stored-0123456789abcdef"
	store.Replace([]*StoredKey{storedKey("s", "batch", key)})
	id, err := login(a, bearer(key), t0)
	if err != nil {
		t.Fatal(err)
	}
	if until, ok := a.Lasting(bearer(key), id, t0); !ok || !until.IsZero() {
		t.Errorf("a key without an end lasts until %v, %v", until, ok)
	}
	store.Replace([]*StoredKey{storedKey("s", "batch", key)}) // as if its limits had changed
	if _, ok := a.Lasting(bearer(key), id, t0); ok {
		t.Error("a key that has changed lasts")
	}
	store.Replace(nil)
	if _, ok := a.Lasting(bearer(key), id, t0); ok {
		t.Error("a key that is gone lasts")
	}

	token := bearer(hmacToken(nil))
	if id, err = login(a, token, t0); err != nil {
		t.Fatal(err)
	}
	until, ok := a.Lasting(token, id, t0)
	if !ok || !until.After(t0) {
		t.Fatalf("a token lasts until %v, %v", until, ok)
	}
	if _, ok := a.Lasting(token, id, until.Add(time.Second)); ok {
		t.Error("a token lasts longer than it says")
	}
	if _, ok := a.Lasting(token, &Identity{}, t0); ok {
		t.Error("a token lasts for another caller")
	}
}
