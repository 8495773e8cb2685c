// Command image builds the OCI image of weir without a container daemon: a static binary, the certificate authorities that public
// providers are trusted by, and a user without rights, on nothing. Equal sources make an image of the same digest.
//
//	go run ./deploy/image                                   # dist/weir-image, an OCI layout
//	go run ./deploy/image -push example.com/platform/weir:1.2.3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.StringVar(&o.out, "o", "dist/weir-image", "directory of the OCI layout; one of before is replaced")
	flag.StringVar(&o.platforms, "platforms", "linux/amd64,linux/arm64", "platforms to build for, with commas between")
	flag.StringVar(&o.version, "version", "", "version that the program says it has (default: the commit)")
	flag.StringVar(&o.archive, "archive", "", "also write the image of the first platform as an archive that \"docker load\" and \"podman load\" take")
	flag.StringVar(&o.push, "push", "", "also push to this reference, with the credentials of the docker configuration")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

type options struct {
	out, platforms, version, archive, push string
}

// program is the package that the image holds.
const program = "./cmd/weir"

func run(ctx context.Context, o options) error {
	when, err := created(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weir-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var built []binary
	for _, text := range strings.Split(o.platforms, ",") {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.OS != "linux" || p.Architecture == "" {
			return fmt.Errorf("-platforms: %q is not linux/ARCHITECTURE", text)
		}
		fmt.Fprintf(os.Stderr, "building weir for %s\n", p)
		b := binary{platform: *p, path: filepath.Join(dir, "weir-"+p.Architecture)}
		if err := b.build(ctx, program, o.version); err != nil {
			return err
		}
		built = append(built, b)
	}
	index, err := indexOf(built, when)
	if err != nil {
		return err
	}
	if err := write(o.out, index); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s\n", o.out, digest)
	if o.archive != "" {
		if err := archive(o.archive, built[0], when); err != nil {
			return err
		}
		fmt.Println(o.archive)
	}
	if o.push == "" {
		return nil
	}
	ref, err := name.ParseReference(o.push)
	if err != nil {
		return fmt.Errorf("-push: %w", err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	fmt.Printf("%s@%s\n", ref.Context(), digest)
	return nil
}

// binary is the program for a platform.
type binary struct {
	platform v1.Platform
	path     string
}

// build makes a static program, the same from the same sources.
func (b *binary) build(ctx context.Context, pkg, version string) error {
	flags := "-s -w"
	if version != "" {
		flags += " -X main.version=" + version
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", b.path, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+b.platform.OS, "GOARCH="+b.platform.Architecture)
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("go build %s for %s: %w", pkg, b.platform, err)
	}
	return nil
}

// created is the time that everything in the image bears: $SOURCE_DATE_EPOCH, or that of the commit.
func created(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "show", "-s", "--format=%ct", "HEAD").Output()
		if err != nil {
			return time.Time{}, errors.New("the time of the image is not known: set SOURCE_DATE_EPOCH, or build in a clone of the repository")
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// write makes an OCI layout of the index alone.
func write(dir string, index v1.ImageIndex) error {
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err == nil {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	} else if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("-o: %s holds something that is not an OCI layout; give another directory", dir)
	}
	_, err := layout.Write(dir, emptyIndex())
	if err == nil {
		err = layout.Path(dir).AppendIndex(index)
	}
	return err
}

// archive writes the image of one platform.
func archive(path string, b binary, when time.Time) error {
	image, err := b.image(when)
	if err != nil {
		return err
	}
	tag, err := name.NewTag("weir:latest")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, image)
}
