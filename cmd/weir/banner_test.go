package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/weir-dev/weir/xds/source"
)

// TestBannerOfAShutConsole: an address that lets nobody in is not offered; what to set is.
func TestBannerOfAShutConsole(t *testing.T) {
	for _, c := range []struct {
		admin, token string
		shut         bool
	}{
		{"127.0.0.1:8081", "", false},
		{"[::1]:8081", "", false},
		{"0.0.0.0:8081", "", true},
		{":8081", "", true},
		{"0.0.0.0:8081", "a-token-that-is-long-enough", false},
	} {
		t.Run(c.admin+c.token, func(t *testing.T) {
			if c.token != "" {
				t.Setenv(adminTokenVariable, c.token)
			}
			g := &gateway{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
			g.opts.admin, g.origin = c.admin, g.folder()
			text := g.bannerText(source.NewObjects(), "http://127.0.0.1:8080")
			console := ""
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "  console ") {
					console = line
				}
			}
			if shut := strings.Contains(console, "shut") && strings.Contains(console, adminTokenVariable) && !strings.Contains(console, "http"); shut != c.shut {
				t.Errorf("shut is %v: %s", shut, console)
			}
			if c.shut == strings.Contains(text, "api/status") {
				t.Errorf("the admin line is wrong:\n%s", text)
			}
		})
	}
}
