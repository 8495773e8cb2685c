package envoy

import "testing"

func TestParseVersion(t *testing.T) {
	tests := []struct {
		output, want string
		atLeast      bool
	}{
		{"\nenvoy/_bin/envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n\n", "1.40.0", true},
		{"9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0", true},
		{"envoy  version: abc/1.41.0-dev/Modified/DEBUG/BoringSSL", "1.41.0-dev", true},
		{"envoy  version: abc/1.40.0-dev/Clean/RELEASE/BoringSSL", "1.40.0-dev", false},
		{"envoy  version: abc/1.40.0-rc1/Clean/RELEASE/BoringSSL", "1.40.0-rc1", false},
		{"envoy  version: abc/1.40.0-fips/Clean/RELEASE/BoringSSL-FIPS", "1.40.0-fips", true},
		{"envoy  version: abc/1.40.1/Clean/RELEASE/BoringSSL", "1.40.1", true},
		{"envoy  version: abc/1.39.9/Clean/RELEASE/BoringSSL", "1.39.9", false},
		{"envoy  version: abc/1.9.0/Clean/RELEASE/BoringSSL", "1.9.0", false},
		{"envoy  version: abc/2.0.0/Clean/RELEASE/BoringSSL", "2.0.0", true},
		{"some warning\nenvoy  version: 0/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0", true},
		{"envoy  version: redacted!/1.40.0/redacted/RELEASE/BoringSSL", "1.40.0", true},
		{"", "", false},
		{"nginx version: nginx/1.40.0", "", false},
		{"envoy  version: abc/1.40/Clean/RELEASE/BoringSSL", "", false},
		{"envoy  version: abc/1.-40.0/Clean/RELEASE/BoringSSL", "", false},
		{"envoy  version: abc/1.99999.0/Clean/RELEASE/BoringSSL", "", false},
	}
	for _, tt := range tests {
		v, err := ParseVersion(tt.output)
		if (err != nil) != (tt.want == "") {
			t.Errorf("%q: %v", tt.output, err)
			continue
		}
		if err == nil && (v.String() != tt.want || v.AtLeast(minVersion) != tt.atLeast) {
			t.Errorf("%q: %s, at least 1.40.0: %v; want %s, %v", tt.output, v, v.AtLeast(minVersion), tt.want, tt.atLeast)
		}
	}
	if v, _ := ParseVersion(tests[0].output); v.Commit != "9e5580933739775e8bce696a57a2e1bc99368f23" {
		t.Errorf("commit %q", v.Commit)
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL")
	f.Add("a/1.2.3-x/c/d/e\n")
	f.Add("version:////")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVersion(s)
		if err != nil {
			return
		}
		// What was read prints as something that reads the same.
		again, err := ParseVersion(v.Commit + "/" + v.String() + "/Clean/RELEASE/BoringSSL")
		if err != nil || again != v {
			t.Errorf("%q: %+v reads again as %+v, %v", s, v, again, err)
		}
	})
}
