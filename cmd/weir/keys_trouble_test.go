package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

// TestKeysNeedFewSecrets: who revokes and lists needs neither the pepper nor a backend's key, and is told in one sentence.
func TestKeysNeedFewSecrets(t *testing.T) {
	srv := redistest.Start(t)
	const backend = "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: %s}\nspec: {dialect: openai, url: 'https://a.example', credential: {secretRef: {env: %s}}}\n"
	for name, store := range map[string]string{
		"Redis":   fmt.Sprintf("  authentication: {keyStore: Redis, keyPepperRef: {env: WEIR_TEST_PEPPER}}\n  sharedState: {redis: {addresses: [%q]}}\n", srv.Addr),
		"Objects": "  authentication: {keyPepperRef: {env: WEIR_TEST_PEPPER}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := keysDir(t, store)
			t.Run("with it", func(t *testing.T) {
				t.Setenv("WEIR_TEST_PEPPER", "a pepper of at least thirty-two bytes")
				mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app")
			})
			put(t, dir, "a.yaml", fmt.Sprintf(backend, "a", "WEIR_TEST_UNSET_A"))
			put(t, dir, "b.yaml", fmt.Sprintf(backend, "b", "WEIR_TEST_UNSET_B"))
			_, errs, err := keys("revoke", "bot", "-f", dir)
			lines := strings.Split(strings.TrimSpace(errs), "\n")
			if err != nil || len(lines) != 2 || !strings.HasPrefix(lines[0], "key default/bot is disabled in ") || !strings.Contains(lines[1], "and 2 more") {
				t.Errorf("%v\n%s", err, errs)
			}
			if list := mustKeys(t, "list", "-f", dir); !strings.Contains(list, " disabled ") {
				t.Errorf("%s", list)
			}
			for _, c := range []string{"create new --consumer app", "rotate bot", "hash"} {
				if out, _, err := keys(append(strings.Fields(c), "-f", dir)...); err == nil || out != "" || !strings.Contains(err.Error(), "keyPepperRef") ||
					!strings.Contains(err.Error(), "WEIR_TEST_PEPPER is not set") {
					t.Errorf("%s: %q, %v", c, out, err)
				}
			}
		})
	}
}

// TestKeysRevokeBrokenDocument: a key whose document has an error is not said to be missing.
func TestKeysRevokeBrokenDocument(t *testing.T) {
	dir := keysDir(t, "")
	put(t, dir, "k.yaml", "apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: bot}\nspec: {consumer: app, hash: nonsense}\n")
	if _, _, err := keys("revoke", "bot", "-f", dir); err == nil || !strings.Contains(err.Error(), "has an error") || !strings.Contains(err.Error(), "k.yaml") {
		t.Errorf("%v", err)
	}
	// Without the gateway's document a key can be revoked in its own.
	only := t.TempDir()
	path := put(t, only, "k.yaml", "apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: bot}\nspec: {consumer: app, hash: 'sha256:"+strings.Repeat("ab", 32)+"'}\n")
	mustKeys(t, "revoke", "bot", "-f", only)
	if !strings.Contains(slurp(t, path), "disabled: true") {
		t.Errorf("%s", slurp(t, path))
	}
}

// TestRedisTrouble: what goes wrong with Redis says which one, where it is configured and what to do.
func TestRedisTrouble(t *testing.T) {
	srv := redistest.Start(t, "--requirepass", "right", "--user", "narrow", "on", ">pass", "~nothing:*", "+ping")
	for name, c := range map[string]struct{ auth, says string }{
		"none":   {"", "wants a password: give passwordRef"},
		"wrong":  {", passwordRef: {file: pw}", "refuses the password of the default user"},
		"narrow": {", username: narrow, passwordRef: {file: pass}", `does not let the user "narrow" do this`},
		"unset":  {", passwordRef: {env: WEIR_TEST_UNSET}", "spec.sharedState.redis.passwordRef: it cannot be read: the environment variable WEIR_TEST_UNSET is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := keysDir(t, fmt.Sprintf("  authentication: {keyStore: Redis}\n  accounting: {ledger: Redis}\n  sharedState: {redis: {addresses: [%q]%s}}\n", srv.Addr, c.auth))
			put(t, dir, "pw", "wrong")
			put(t, dir, "pass", "pass")
			for _, args := range []string{"create k --consumer app", "list", "revoke k", "rotate k"} {
				_, _, err := keys(append(strings.Fields(args), "-f", dir)...)
				mention(t, args, err, c.says, "spec.sharedState.redis")
				if name != "unset" {
					mention(t, args, err, "Redis at "+srv.Addr)
				}
			}
			u := root()
			u.SetArgs([]string{"usage", "-f", dir, "--source", "redis"})
			err := u.Execute()
			if name == "unset" {
				mention(t, "usage", err, "spec.sharedState.redis.passwordRef")
			} else {
				mention(t, "usage", err, c.says, "Redis at "+srv.Addr)
			}
		})
	}
}

func mention(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	for _, s := range says {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %v; want %q", what, err, s)
		}
	}
}

// TestKeysInLostRedis: a key that Redis has lost can be ended, and only by force.
func TestKeysInLostRedis(t *testing.T) {
	srv := redistest.Start(t)
	dir := keysDir(t, fmt.Sprintf("  authentication: {keyStore: Redis}\n  sharedState: {redis: {addresses: [%q]}}\n", srv.Addr))
	mustKeys(t, "create", "bot", "-f", dir, "--consumer", "app")
	_, _, err := keys("create", "bot", "-f", dir, "--consumer", "app")
	mention(t, "a second bot", err, "weir keys rotate bot")
	_, _, err = keys("revoke", "lost", "-f", dir, "--force")
	mention(t, "a key that is not there, in a good store", err, "no key default/lost")
	if err := srv.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	_, _, err = keys("revoke", "bot", "-f", dir)
	mention(t, "revoke", err, "--force", "default/bot")
	if _, errs, err := keys("list", "-f", dir); err != nil || !strings.Contains(errs, "--force") {
		t.Errorf("%s, %v", errs, err)
	}
	mustKeys(t, "revoke", "bot", "-f", dir, "--force")
	mustKeys(t, "revoke", "bot", "-f", dir)
	if list := mustKeys(t, "list", "-f", dir); !strings.Contains(list, "bot   -         -       disabled") {
		t.Errorf("%s", list)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "keys")); len(left) > 0 {
		t.Errorf("%v", left)
	}
}
