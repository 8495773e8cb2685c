package main

import (
	"archive/tar"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

var when = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// small builds a program that takes less time than weir.
func small(t *testing.T) binary {
	t.Helper()
	b := binary{platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, path: filepath.Join(t.TempDir(), "small")}
	if err := b.build(t.Context(), "./testdata/small", ""); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLayout(t *testing.T) {
	b := small(t)
	index, err := indexOf([]binary{b}, when)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "image")
	for range 2 { // the second time it replaces the first
		if err := write(dir, index); err != nil {
			t.Fatal(err)
		}
	}
	read, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(read); err != nil {
		t.Error(err)
	}
	top, err := read.IndexManifest()
	if err != nil || len(top.Manifests) != 1 {
		t.Fatalf("the layout has %d indexes, want 1 (%v)", len(top.Manifests), err)
	}
	again, err := indexOf([]binary{small(t)}, when)
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := again.Digest(); err != nil || digest != top.Manifests[0].Digest {
		t.Errorf("a second build has the digest %v (%v), the first %v", digest, err, top.Manifests[0].Digest)
	}
	if err := write(t.TempDir(), index); err != nil {
		t.Errorf("an empty directory: %v", err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(full, index); err == nil {
		t.Error("a directory with something else in it was written over")
	}
}

func TestImage(t *testing.T) {
	b := small(t)
	image, err := b.image(when)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" || config.Architecture != runtime.GOARCH || !config.Created.Equal(when) {
		t.Errorf("user %q, architecture %q, created %v", config.Config.User, config.Architecture, config.Created)
	}
	files := unpack(t, image)
	if ca := files[caPath]; strings.Count(string(ca), "BEGIN CERTIFICATE") < 100 {
		t.Errorf("%d authorities, want more than a hundred", strings.Count(string(ca), "BEGIN CERTIFICATE"))
	}
	path := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(path, files[strings.TrimPrefix(config.Config.Entrypoint[0], "/")], 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).Output(); err != nil || string(out) != "small\n" {
		t.Errorf("the program of the image says %q (%v)", out, err)
	}
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 || slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("the program is not static: %v (%v)", libraries, err)
	}
}

// unpack reads the files of an image, and checks that nobody but root may write them, /tmp and the state apart.
func unpack(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if free := h.Name == "tmp/" || h.Name == statePath+"/"; !free && (h.Mode&0o022 != 0 || h.Uid != 0) {
				t.Errorf("%s has mode %o and owner %d", h.Name, h.Mode, h.Uid)
			}
			if out[h.Name], err = io.ReadAll(tr); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

func TestBill(t *testing.T) {
	b := small(t)
	image, err := b.image(when)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	bill, err := b.bill(image, when)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := bill.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Subject == nil || manifest.Subject.Digest != digest {
		t.Errorf("the bill is of %v, want %v", manifest.Subject, digest)
	}
	// This test is a program of many modules.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := sbom(self, b.platform, digest, when)
	if err != nil {
		t.Fatal(err)
	}
	var d spdxDocument
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, p := range d.Packages {
		if ids[p.ID] {
			t.Errorf("%s is there twice", p.ID)
		}
		ids[p.ID] = true
	}
	for _, want := range []string{"weir", "stdlib", "github.com/google/go-containerregistry"} {
		if !slices.ContainsFunc(d.Packages, func(p spdxPackage) bool { return p.Name == want }) {
			t.Errorf("the bill does not list %s", want)
		}
	}
	for _, r := range d.Relationships {
		if !ids[r.Related] {
			t.Errorf("%s %s %s, which is not listed", r.Element, r.Type, r.Related)
		}
	}
}
