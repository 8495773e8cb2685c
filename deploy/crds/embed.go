// Package crds holds the CustomResourceDefinitions of Weir's API, generated from api/v1alpha1. The same
// bytes are installed in a cluster and validate files in a folder.
package crds

import "embed"

// FS holds one YAML file for each CustomResourceDefinition, at its root.
//
//go:embed *.yaml
var FS embed.FS
