package docs_test

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"testing"

	yaml "go.yaml.in/yaml/v3"

	"github.com/weir-dev/weir/api/schema"
)

// clusterBlock is YAML of objects that only a cluster has, so that no folder can hold them.
var clusterBlock = regexp.MustCompile("(?s)```yaml cluster\n(.*?)```")

// TestClusterYAML: an API server would take it.
func TestClusterYAML(t *testing.T) {
	validator, err := schema.New()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, page := range pages(t) {
		for _, b := range clusterBlock.FindAllStringSubmatch(read(t, page), -1) {
			documents := yaml.NewDecoder(bytes.NewReader([]byte(b[1])))
			for {
				var object map[string]any
				if err := documents.Decode(&object); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", page, err)
				}
				if object["apiVersion"] != "weir.dev/v1alpha1" {
					continue // an object of Kubernetes, which Weir only reads
				}
				total++
				if _, errs := validator.Validate(object); len(errs) > 0 {
					t.Errorf("%s: %v: %v", page, object["metadata"], errs)
				}
			}
		}
	}
	if total == 0 {
		t.Error("there is no such YAML")
	}
}
