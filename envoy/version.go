package envoy

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// WantVersion is the Envoy release that Weir is tested with: the oldest it accepts and the one
// that Ensure fetches.
const WantVersion = "1.40.0"

// minVersion is WantVersion in comparable form.
var minVersion = Version{Major: 1, Minor: 40}

// Version is an Envoy release number with what the build says about itself.
type Version struct {
	Major, Minor, Patch int
	// Suffix is what follows the number, without the leading dash: "dev", "rc1", or empty.
	Suffix string
	// Commit is the source revision, in hexadecimal, or empty.
	Commit string
}

// String returns the number as Envoy prints it, "1.40.0" or "1.41.0-dev".
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Suffix != "" {
		s += "-" + v.Suffix
	}
	return s
}

// AtLeast tells whether v is w or newer. A pre-release (dev, rc, alpha, beta) comes before the
// release of the same number; other suffixes, which distributors add, do not count.
func (v Version) AtLeast(w Version) bool {
	c := cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
	if c != 0 {
		return c > 0
	}
	return !v.preRelease() || w.preRelease()
}

func (v Version) preRelease() bool {
	for _, p := range []string{"dev", "rc", "alpha", "beta"} {
		if strings.HasPrefix(v.Suffix, p) {
			return true
		}
	}
	return false
}

// ParseVersion reads what `envoy --version` prints. The line looks like
//
//	envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL
//
// and is written by Envoy's source/common/version: revision/number/tree state/build type/TLS
// library. The admin endpoint /server_info has the same five fields without the prefix.
func ParseVersion(output string) (Version, error) {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, "version:"); ok {
			line = strings.TrimSpace(after)
		}
		fields := strings.Split(line, "/")
		if len(fields) != 5 {
			continue
		}
		if v, ok := parseNumber(fields[1]); ok {
			if isHex(fields[0]) {
				v.Commit = fields[0]
			}
			return v, nil
		}
	}
	return Version{}, fmt.Errorf("no Envoy version in the output %q", clip(strings.TrimSpace(output), 120))
}

// parseNumber reads "1.40.0" and "1.41.0-dev".
func parseNumber(s string) (Version, bool) {
	s, suffix, _ := strings.Cut(s, "-")
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return Version{}, false
	}
	var n [3]int
	for i, p := range parts {
		// 16 bits are far more than a release number needs and keep the parse free of signs.
		u, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return Version{}, false
		}
		n[i] = int(u)
	}
	return Version{Major: n[0], Minor: n[1], Patch: n[2], Suffix: suffix}, true
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// clip shortens s to at most n bytes for use in a message, at a rune boundary.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
