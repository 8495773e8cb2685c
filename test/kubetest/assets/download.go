package assets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// setupEnvtest is the ordinary program that downloads the servers, at a pinned version.
const setupEnvtest = "sigs.k8s.io/controller-runtime/tools/setup-envtest@v0.25.1"

// The places that setup-envtest needs: its index, and the releases that the index names.
var downloadHosts = []string{
	"https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml",
	"https://github.com/kubernetes-sigs/controller-tools/releases",
}

// probeTimeout bounds the question whether they can be reached, downloadTimeout the download of some 60 MB: on a line on which
// it takes longer, the modules of a build would take longer still.
const (
	probeTimeout    = 5 * time.Second
	downloadTimeout = 4 * time.Minute
)

// download lets setup-envtest bring the servers of the same minor version, into the folder into.
func download(ctx context.Context, p place, into string, progress io.Writer) error {
	for _, host := range downloadHosts {
		if err := reachable(ctx, host); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	minor := strings.TrimPrefix(p.version[:strings.LastIndex(p.version, ".")], "v")
	fmt.Fprintf(progress, "downloading kube-apiserver and etcd %s with setup-envtest\n", minor)
	bin := filepath.Join(into, "download")
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "run", setupEnvtest, "use", minor+".x", "--bin-dir", bin, "--print", "path",
		"--os", runtime.GOOS, "--arch", runtime.GOARCH)
	// Outside of the project's module, whose directives are not for it.
	cmd.Dir, cmd.Env = into, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	cmd.Stdout, cmd.Stderr = &out, &problem
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		_ = removeAll(bin)
		return fmt.Errorf("setup-envtest: %w: %s", err, lastLines(problem.String(), 2))
	}
	from, to := inFolder(strings.TrimSpace(out.String())), inFolder(into)
	return errors.Join(os.Rename(from.Etcd, to.Etcd), os.Rename(from.APIServer, to.APIServer), removeAll(bin))
}

// removeAll removes a folder whose folders may not be written: setup-envtest leaves such.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// reachable asks a place for its headers: what cannot be resolved or is refused fails at once.
func reachable(ctx context.Context, place string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, place, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return plain(req.URL.Host, err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", req.URL.Host, resp.Status)
	}
	return nil
}

// plain says in few words why a host cannot be reached.
func plain(host string, err error) error {
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &dns) && !dns.Timeout():
		return fmt.Errorf("the name %s cannot be resolved", host)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s does not answer", host)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s cannot be reached: %w", host, err)
}
