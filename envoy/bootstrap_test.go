package envoy

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// bootstraps are the options of the golden files testdata/bootstrap-NAME.json.
var bootstraps = map[string]BootstrapOptions{
	"minimal": {AdminSocket: "/run/weir/admin.sock", XDSSocket: "/run/weir/xds.sock"},
	"full": {
		NodeID: "gateway-7", NodeCluster: "edge",
		AdminSocket: "/run/weir/admin.sock", XDSSocket: "/run/weir/xds.sock", ExtProcSocket: "/run/weir/extproc.sock",
		MaxConnections: 1234, MaxHeapBytes: 2 << 30,
		Runtime: map[string]any{"http.max_requests_per_io_cycle": 10, "overload.premature_reset_total_stream_count": 100},
	},
}

func TestBootstrapGolden(t *testing.T) {
	for name, opts := range bootstraps {
		t.Run(name, func(t *testing.T) {
			got, err := Bootstrap(opts)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "bootstrap-"+name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the bootstrap differs from %s (go test -update rewrites it):\n%s", file, got)
			}
		})
	}
}

func TestBootstrapIsAcceptedByEnvoy(t *testing.T) {
	bin := realEnvoy(t)
	for name, opts := range bootstraps {
		t.Run(name, func(t *testing.T) {
			boot, err := Bootstrap(opts)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "envoy.json")
			if err := os.WriteFile(file, boot, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(testContext(t), bin.Path, "--mode", "validate", "--log-level", "warning", "--config-path", file).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "OK") {
				t.Errorf("envoy --mode validate: %v\n%s", err, out)
			}
			for _, word := range []string{"[warning]", "[error]", "deprecated"} {
				if strings.Contains(string(out), word) {
					t.Errorf("Envoy is not content with it:\n%s", out)
				}
			}
		})
	}
}

func TestBootstrapRefusals(t *testing.T) {
	good := bootstraps["minimal"]
	for _, tt := range []struct {
		name string
		edit func(*BootstrapOptions)
		want string
	}{
		{"no admin socket", func(o *BootstrapOptions) { o.AdminSocket = "" }, "needs the path of the admin socket"},
		{"no xDS socket", func(o *BootstrapOptions) { o.XDSSocket = "" }, "needs the path of the xDS socket"},
		{"long path", func(o *BootstrapOptions) { o.ExtProcSocket = "/" + strings.Repeat("x", 200) }, "ext_proc socket: the socket path /xxx"},
		{"odd runtime value", func(o *BootstrapOptions) { o.Runtime = map[string]any{"key": make(chan int)} }, "must be booleans, numbers, strings"},
	} {
		opts := good
		tt.edit(&opts)
		if _, err := Bootstrap(opts); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", tt.name, err, tt.want)
		}
	}
}
