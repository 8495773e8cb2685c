package compile

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

const docServed = docCaller + docRoute + "\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: a}\nspec: {dialect: openai, url: 'https://a.example/v1'}\n---"

func gatewayWith(name, port, authentication string) string {
	return doc("LLMGateway", name, "{listeners: [{name: http, address: 127.0.0.1, port: "+port+"}], "+authentication+"}")
}

// login asks a version's authenticator.
func login(t *testing.T, v *Version, key, source string) (*identity.Identity, *canon.Error) {
	t.Helper()
	var h identity.Headers
	h.Add("authorization", "Bearer "+key)
	return v.Table.Auth.Authenticate(t.Context(), h, netip.MustParseAddr(source), time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
}

// TestKeyFields: what an APIKey says arrives at the identity.
func TestKeyFields(t *testing.T) {
	pepper, err := identity.NewPepper([]byte(marker + "-of-at-least-thirty-two-bytes!")) // JWT_SECRET
	if err != nil {
		t.Fatal(err)
	}
	const key = "weir_Ab3dEf6h_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	v := compileText(t, gatewayWith("main", "8443", "authentication: {keyPepperRef: {env: JWT_SECRET}}")+docServed+
		doc("APIKey", "k", "{consumer: demo, hash: '"+pepper.HashKey(key)+"', prefix: weir_Ab3dEf6h, allowedCIDRs: [10.0.0.0/8], requestsPerMinute: 60, scopes: [chat]}"))
	id, cerr := login(t, v, key, "10.1.2.3")
	if cerr != nil {
		t.Fatal(cerr)
	}
	if id.KeyID != "default/key:k" || id.ConsumerID != "default/demo" || id.KeyPrefix != "weir_Ab3dEf6h" || id.RequestsPerMinute != 60 || len(id.Scopes) != 1 {
		t.Errorf("%+v", id)
	}
	if _, cerr := login(t, v, key, "192.0.2.1"); cerr == nil || cerr.Code != identity.CodeAddress {
		t.Errorf("from elsewhere: %v", cerr)
	}
}

// TestIdentityOfProcess: the counts and stored keys of the process are used, and stored keys only where the gateway asks for them.
func TestIdentityOfProcess(t *testing.T) {
	opts := options(t)
	stored := &identity.StoredKeys{}
	_, sum, err := identity.ParseHash(identity.HashKey("stored-0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	stored.Replace([]*identity.StoredKey{identity.NewStoredKey(identity.Key{Namespace: "default", Name: "s", Consumer: "demo", Hash: sum})})
	reasons := map[identity.Reason]int{}
	opts.Identity = identity.Shared{Stored: stored, Throttle: identity.NewThrottle(), Refused: func(r identity.Reason) { reasons[r]++ }}
	for authentication, want := range map[string]int{
		"authentication: {maxFailedLogins: 2}": 401,
		"authentication: {keyStore: Redis, maxFailedLogins: 2}, sharedState: {redis: {addresses: [r.example:6379]}}": 200,
	} {
		clear(reasons)
		v, problems := Compile(load(t, gatewayWith("main", "8443", authentication)+docServed), opts)
		if v == nil {
			t.Fatal(problems)
		}
		address := "192.0.2." + map[int]string{200: "1", 401: "2"}[want]
		status := 200
		if _, cerr := login(t, v, "stored-0123456789abcdef", address); cerr != nil {
			status = cerr.HTTPStatus()
		}
		if status != want {
			t.Errorf("%s: %d, want %d", authentication, status, want)
		}
		for range 3 {
			login(t, v, "guess-0123456789abcdef", address)
		}
		if _, cerr := login(t, v, "guess-0123456789abcdef", address); cerr == nil || cerr.Code != identity.CodeThrottled {
			t.Errorf("%s: %v after many failures", authentication, cerr)
		}
		if reasons[identity.ReasonUnknownKey] != 2 || reasons[identity.ReasonThrottled] == 0 {
			t.Errorf("%s: reasons %v", authentication, reasons)
		}
	}
}

// TestPepperProblems: what is wrong with peppers is told where it is written.
func TestPepperProblems(t *testing.T) {
	const hmacKey = "{consumer: demo, hash: 'hmac-sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}"
	for name, c := range map[string]struct {
		documents string
		want      []string
	}{
		"none": {gatewayWith("main", "8443", "") + doc("APIKey", "k", hmacKey),
			[]string{"APIKey default/k: spec.hash: the hash is made with a pepper, and there is none here"}},
		"short": {gatewayWith("main", "8443", "authentication: {keyPepperRef: {env: SHORT_SECRET}}"),
			[]string{"LLMGateway default/main: spec.authentication.keyPepperRef: the pepper has"}},
		"two": {gatewayWith("main", "8443", "authentication: {keyPepperRef: {env: JWT_SECRET}}") + gatewayWith("other", "8444", "authentication: {keyPepperRef: {env: PRIVATE_KEY}}"),
			[]string{"LLMGateway default/other: spec.authentication.keyPepperRef: the pepper is not that of LLMGateway default/main"}},
		"one of two": {gatewayWith("main", "8443", "") + gatewayWith("other", "8444", "authentication: {keyPepperRef: {env: JWT_SECRET}}"),
			[]string{"LLMGateway default/other: spec.authentication.keyPepperRef: the pepper is not that of"}},
		"the same in two": {gatewayWith("main", "8443", "authentication: {keyPepperRef: {env: JWT_SECRET}}") + gatewayWith("other", "8444", "authentication: {keyPepperRef: {env: JWT_SECRET}}") +
			doc("APIKey", "k", hmacKey), nil},
		"discovery of what is no URL": {gatewayWith("main", "8443", "") + doc("JWTIssuer", "i", "{issuer: jobs, audiences: [a], keys: {discovery: true}}"),
			[]string{"JWTIssuer default/i: spec.keys.discovery: the issuer cannot be asked for its keys"}},
		"discovery": {gatewayWith("main", "8443", "") + doc("JWTIssuer", "i", "{issuer: 'https://i.example', audiences: [a], keys: {discovery: true, keepFor: 1h}, claims: {scopes: roles}}"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			v, problems := Compile(load(t, c.documents+docServed), options(t))
			var errs []string
			for _, p := range problems {
				if p.Severity == source.Error {
					errs = append(errs, p.Object.String()+": "+p.Field+": "+p.Message)
				}
				if strings.Contains(p.Message, marker) {
					t.Errorf("the problem shows a secret: %v", p)
				}
			}
			if len(errs) != len(c.want) || (v == nil) != (len(c.want) > 0) {
				t.Fatalf("problems %q, want %q", errs, c.want)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(errs[i], want) {
					t.Errorf("problem %q, want %q", errs[i], want)
				}
			}
			if name == "discovery" {
				if urls := v.Table.Auth.URLs(); len(urls) != 1 || urls[0] != "https://i.example/.well-known/openid-configuration" {
					t.Errorf("URLs %v", urls)
				}
			}
		})
	}
}
