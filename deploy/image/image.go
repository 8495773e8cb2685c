package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Where things are in the image. The authorities have the place where Debian and Envoy's own image have them.
const (
	programPath = "usr/local/bin/weir"
	caPath      = "etc/ssl/certs/ca-certificates.crt"
	statePath   = "var/lib/weir"
)

// user of the image; Envoy's container must run as the same to share its sockets.
const user = 65532

// sbomType of the bill of materials (SPDX 2.3, JSON), which is in the index as an artifact that refers to its image.
const sbomType types.MediaType = "application/spdx+json"

func emptyIndex() v1.ImageIndex { return mutate.IndexMediaType(empty.Index, types.OCIImageIndex) }

// indexOf makes the index of an image for each program, each with its bill of materials.
func indexOf(built []binary, when time.Time) (v1.ImageIndex, error) {
	index := emptyIndex()
	for _, b := range built {
		image, err := b.image(when)
		if err != nil {
			return nil, err
		}
		bill, err := b.bill(image, when)
		if err != nil {
			return nil, err
		}
		platform := b.platform
		index = mutate.AppendManifests(index,
			mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}},
			mutate.IndexAddendum{Add: bill, Descriptor: v1.Descriptor{ArtifactType: string(sbomType)}})
	}
	return index, nil
}

// image makes the image of a program.
func (b *binary) image(when time.Time) (v1.Image, error) {
	program, err := os.ReadFile(b.path)
	if err != nil {
		return nil, err
	}
	base, err := layerOf(when,
		file{name: "etc/", mode: 0o755}, file{name: "etc/ssl/", mode: 0o755}, file{name: "etc/ssl/certs/", mode: 0o755},
		file{name: caPath, mode: 0o644, content: authorities()},
		file{name: "etc/passwd", mode: 0o644, content: fmt.Appendf(nil, "weir:x:%d:%d:weir:/%s:/sbin/nologin\n", user, user, statePath)},
		file{name: "etc/group", mode: 0o644, content: fmt.Appendf(nil, "weir:x:%d:\n", user)},
		file{name: "tmp/", mode: 0o1777},
		file{name: "var/", mode: 0o755}, file{name: "var/lib/", mode: 0o755}, file{name: statePath + "/", mode: 0o700, owner: user},
	)
	if err != nil {
		return nil, err
	}
	top, err := layerOf(when,
		file{name: "usr/", mode: 0o755}, file{name: "usr/local/", mode: 0o755}, file{name: "usr/local/bin/", mode: 0o755},
		file{name: programPath, mode: 0o755, content: program},
	)
	if err != nil {
		return nil, err
	}
	image, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: base, History: v1.History{CreatedBy: "authorities and user", Created: v1.Time{Time: when}}},
		mutate.Addendum{Layer: top, History: v1.History{CreatedBy: "weir", Created: v1.Time{Time: when}}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: when}
	config.OS, config.Architecture, config.Variant = b.platform.OS, b.platform.Architecture, b.platform.Variant
	config.Config = v1.Config{
		Entrypoint: []string{"/" + programPath},
		User:       fmt.Sprintf("%d:%d", user, user),
		WorkingDir: "/" + statePath,
		Env:        []string{"PATH=/usr/local/bin", "SSL_CERT_FILE=/" + caPath, "WEIR_STATE_DIR=/" + statePath},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "weir",
			"org.opencontainers.image.description": "An LLM gateway: Envoy carries the bytes, Go decides",
			"org.opencontainers.image.source":      "https://github.com/weir-dev/weir",
		},
	}
	return mutate.ConfigFile(image, config)
}

// bill makes the bill of materials of an image: an artifact whose subject it is.
func (b *binary) bill(image v1.Image, when time.Time) (v1.Image, error) {
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	text, err := sbom(b.path, b.platform, digest, when)
	if err != nil {
		return nil, err
	}
	out, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), sbomType), static.NewLayer(text, sbomType))
	if err != nil {
		return nil, err
	}
	if out, err = mutate.CreatedAt(out, v1.Time{Time: when}); err != nil {
		return nil, err
	}
	subject, err := partial.Descriptor(image)
	if err != nil {
		return nil, err
	}
	return mutate.Subject(out, *subject).(v1.Image), nil
}

// file is an entry of a layer; a name that ends in a slash is a directory.
type file struct {
	name    string
	mode    int64
	owner   int
	content []byte
}

// layerOf makes a layer of files that all bear one time.
func layerOf(when time.Time, files ...file) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.content)), ModTime: when, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if f.name[len(f.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// authorities are those that Mozilla trusts, PEM. Those that it trusts for some names only are left out: a file cannot say that.
func authorities() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return out.Bytes()
}
