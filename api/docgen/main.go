// Command docgen prints docs/reference.md: every kind and field of Weir's API, read from the
// CustomResourceDefinitions that validate both files and cluster objects.
package main

import (
	"fmt"
	"os"

	crds "github.com/weir-dev/weir/deploy/crds"
)

func main() {
	page, err := reference(crds.FS)
	if err != nil {
		fmt.Fprintf(os.Stderr, "docgen: %v\n", err)
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(page); err != nil {
		fmt.Fprintf(os.Stderr, "docgen: %v\n", err)
		os.Exit(1)
	}
}
