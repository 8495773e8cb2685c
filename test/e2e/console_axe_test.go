package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

// axe-core finds what makes a page hard to use for people with disabilities. It is not part of this repository: it is fetched from npm
// once, at this version and with this content, into the cache that all checkouts of a machine share.
const (
	axeVersion = "4.14.1"
	axeSum     = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c" // SHA-256 of axe.min.js
)

// axeSource is the script.
var axeSource = sync.OnceValues(fetchAxe)

func fetchAxe() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "weir", "axe-core-"+axeVersion, "axe.min.js")
	if text, err := os.ReadFile(path); err == nil && sum(text) == axeSum {
		return string(text), nil
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return "", errors.New("the tests of the console check accessibility with axe-core, which npm fetches, and npm is not installed: apt install npm")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Each run fetches into a folder of its own, and the rename is one step: two checkouts do not disturb each other.
	dir, err := os.MkdirTemp(filepath.Dir(path), "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	npm := exec.Command("npm", "pack", "--silent", "axe-core@"+axeVersion)
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm pack axe-core@%s: %w\n%s", axeVersion, err, out)
	}
	packed, err := os.ReadFile(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"))
	if err != nil {
		return "", err
	}
	text, err := member(packed, "package/axe.min.js")
	if err != nil {
		return "", err
	}
	if got := sum(text); got != axeSum {
		return "", fmt.Errorf("axe.min.js of axe-core %s has the SHA-256 %s, not %s: it is not the file that these tests were written for", axeVersion, got, axeSum)
	}
	early := filepath.Join(dir, "axe.min.js")
	if err := os.WriteFile(early, text, 0o644); err != nil {
		return "", err
	}
	return string(text), os.Rename(early, path)
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// member is one file of a .tgz.
func member(packed []byte, name string) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if h.Name == name {
			return io.ReadAll(r)
		}
	}
}

// axeFinding is a rule that a page breaks.
type axeFinding struct {
	ID, Impact, Help string
	Nodes            []struct {
		HTML    string
		Summary string
	}
}

// axeScript looks at the whole page, by the rules of WCAG 2.2 A and AA and by good practice.
const axeScript = `(async () => {
  const r = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations'] });
  return { passes: r.passes.length, violations: r.violations.map((v) => ({ id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 5).map((n) => ({ html: n.html.slice(0, 300), summary: n.failureSummary })) })) };
})()`

// accessible checks that axe-core finds nothing serious or critical on the page as it is now; what is less is logged.
func (p *browserPage) accessible(t *testing.T) {
	t.Helper()
	source, err := axeSource()
	must(t, err)
	if !evalPage[bool](p, "'axe' in window") {
		if err := chromedp.Do(p.ctx, func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
			return chromedp.Evaluate[chromedp.Void](source)(ctx, target)
		}); err != nil {
			t.Fatal(err)
		}
	}
	found := evalPage[struct {
		Passes     int
		Violations []axeFinding
	}](p, axeScript)
	if found.Passes == 0 {
		t.Error("axe-core has checked nothing")
	}
	for _, v := range found.Violations {
		report := t.Logf
		if v.Impact == "serious" || v.Impact == "critical" {
			report = t.Errorf
		}
		report("%s (%s): %s", v.ID, v.Impact, v.Help)
		for _, n := range v.Nodes {
			report("  %s\n  %s", n.HTML, n.Summary)
		}
	}
}
