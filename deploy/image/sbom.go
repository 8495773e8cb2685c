package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// What follows is the part of SPDX 2.3 that is used; see https://spdx.github.io/spdx-spec/v2.3/.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		License       string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID       string         `json:"SPDXID"`
		Name     string         `json:"name"`
		Version  string         `json:"versionInfo,omitempty"`
		Download string         `json:"downloadLocation"`
		Analyzed bool           `json:"filesAnalyzed"`
		License  string         `json:"licenseConcluded"`
		Purpose  string         `json:"primaryPackagePurpose,omitempty"`
		Sums     []spdxChecksum `json:"checksums,omitempty"`
		Refs     []spdxRef      `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

const noAssertion = "NOASSERTION"

// sbom lists what a program is made of, by what the Go linker wrote into it, as SPDX 2.3 in JSON.
func sbom(program string, platform v1.Platform, image v1.Hash, when time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("what the program is made of cannot be read: %w", err)
	}
	d := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "weir " + platform.String(),
		Namespace: "https://weir.dev/spdx/" + image.Hex,
		Creation:  spdxCreation{Created: when.UTC().Format(time.RFC3339), Creators: []string{"Tool: weir-image"}},
	}
	top := spdxPackage{
		ID: "SPDXRef-Image", Name: "weir", Download: noAssertion, License: noAssertion, Purpose: "CONTAINER",
		Sums: []spdxChecksum{{"SHA256", image.Hex}},
		Refs: []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:oci/weir@" + url.QueryEscape(image.String()) + "?arch=" + platform.Architecture}},
	}
	d.Packages = append(d.Packages, top)
	d.Relationships = append(d.Relationships, spdxRelationship{d.ID, "DESCRIBES", top.ID})
	add := func(p spdxPackage) {
		d.Packages = append(d.Packages, p)
		d.Relationships = append(d.Relationships, spdxRelationship{top.ID, "CONTAINS", p.ID})
	}
	add(module(&info.Main))
	std := spdxPackage{
		ID: "SPDXRef-go", Name: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go"), Download: noAssertion, License: "BSD-3-Clause",
		Refs: []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}},
	}
	add(std)
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		add(module(dep))
	}
	return json.MarshalIndent(d, "", " ")
}

// notOfID is what an SPDX identifier must not have in it.
var notOfID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func module(m *debug.Module) spdxPackage {
	p := spdxPackage{
		ID: "SPDXRef-" + notOfID.ReplaceAllString(m.Path, "-") + "-" + notOfID.ReplaceAllString(cmp.Or(m.Version, "devel"), "-"), Name: m.Path, Version: m.Version,
		Download: noAssertion, License: noAssertion,
		Refs: []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + url.QueryEscape(m.Version)}},
	}
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
		if raw, err := base64.StdEncoding.DecodeString(sum); err == nil {
			p.Sums = []spdxChecksum{{"SHA256", hex.EncodeToString(raw)}}
		}
	}
	return p
}
