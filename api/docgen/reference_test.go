package main

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	crds "github.com/weir-dev/weir/deploy/crds"
)

const page = "../../docs/reference.md"

func TestReferenceIsCurrent(t *testing.T) {
	want, err := reference(crds.FS)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s is not what deploy/crds say: run `make gen`", page)
	}
}

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: birds.weir.dev}
spec:
  group: weir.dev
  scope: Namespaced
  names: {kind: Bird, plural: birds}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        description: |-
          Bird sings. It has
          two lines.
        type: object
        properties:
          spec:
            type: object
            required: [song]
            x-kubernetes-validations:
            - {rule: "self.song != self.name", message: "song|name differ"}
            properties:
              age: {type: integer, minimum: 0, maximum: 30, description: Age in years.}
              song: {type: string, minLength: 1, maxLength: 9, pattern: "^a|b$"}
              size: {x-kubernetes-int-or-string: true, default: 32Mi, pattern: "^long$"}
              rest: {type: string, pattern: "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
              keyRef:
                description: KeyRef is a secret.
                type: object
                x-kubernetes-validations: [{rule: "1 > 0", message: "give one of them"}]
                properties: {name: {type: string}, namespace: {type: string}, key: {type: string}, file: {type: string}, env: {type: string}}
              kinds: {type: array, maxItems: 3, items: {type: string, enum: [a, b]}}
              labels: {type: object, additionalProperties: {type: string}}
              port: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}
              nest:
                default: {}
                type: object
                properties: {wait: {type: string, default: 5s}}
              eggs:
                type: array
                items: {type: object, required: [id], properties: {id: {type: integer}}}
`

func TestReferenceFields(t *testing.T) {
	got, err := reference(fstest.MapFS{"birds.yaml": {Data: []byte(definition)}})
	if err != nil {
		t.Fatal(err)
	}
	want := "\n## Bird\n\nBird sings. It has two lines.\n" + `
| field | type | |
|---|---|---|
| ` + "`spec.song` | string | **Required.** 1 to 9 characters; matching `^a\\|b$`. |" + `
| ` + "`spec.age` | integer | Age in years. 0 to 30. |" + `
| ` + "`spec.eggs` | list of object |  |" + `
| ` + "`spec.eggs[].id` | integer | **Required.** |" + `
| ` + "`spec.keyRef` | [SecretRef](#secretref) | KeyRef is a secret. |" + `
| ` + "`spec.kinds` | list of string | Each one of `a`, `b`; at most 3 items. |" + `
| ` + "`spec.labels` | map of string |  |" + `
| ` + "`spec.nest` | object |  |" + `
| ` + "`spec.nest.wait` | string | Default `5s`. |" + `
| ` + "`spec.port` | number or name |  |" + `
| ` + "`spec.rest` | duration |  |" + `
| ` + "`spec.size` | quantity | Default `32Mi`. |" + `

Checked beyond single fields:

- ` + "`spec`: song\\|name differ\n" + `
## SecretRef

SecretRef says where a secret value is kept. Secrets are never written inline.

| field | type | |
|---|---|---|
| ` + "`env` | string |  |" + `
| ` + "`file` | string |  |" + `
| ` + "`key` | string |  |" + `
| ` + "`name` | string |  |" + `
| ` + "`namespace` | string |  |" + `

Checked beyond single fields:

- give one of them
`
	if _, rest, _ := strings.Cut(string(got), "- [Status](#status)\n"); rest != want {
		t.Errorf("got:\n%s\nwant:\n%s", rest, want)
	}
}

func TestReferenceErrors(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"nothing", "", "no definitions"},
		{"not a definition", "spec: {unheard: of}", "no CustomResourceDefinition"},
		{"no schema", "metadata: {name: x}\nspec: {group: g, names: {kind: X, plural: x}, scope: Namespaced, versions: []}", "no served version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			if c.file != "" {
				fsys["x.yaml"] = &fstest.MapFile{Data: []byte(c.file)}
			}
			_, err := reference(fsys)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
