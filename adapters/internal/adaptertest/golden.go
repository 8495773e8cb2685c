// Package adaptertest is what the tests of the dialects share: golden files, events written as lines
// of text, and the promises that every canon.StreamDecoder makes. Only tests import it.
package adaptertest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the diff before you keep it")

const ruler = "\n-----\n"

// Cut splits a golden file's text into the input, which stands above the ruler, and the output below.
func Cut(text []byte) (in, out []byte) {
	in, out, _ = bytes.Cut(text, []byte(ruler))
	return in, out
}

// Folder runs every .txt file of a folder under testdata: its input gives its output.
func Folder(t *testing.T, dir string, run func(t *testing.T, in []byte) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files in testdata/%s (%v)", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, _ := Cut(text)
			in = bytes.Clone(in) // run may append to it
			File(t, file, []byte(string(in)+ruler+strings.TrimRight(run(t, in), "\n")+"\n"))
		})
	}
}

// File compares got with a whole golden file, or writes it with -update.
func File(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it)\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

// Indent prints a JSON body on several lines, the last one ended.
func Indent(t *testing.T, body []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, body, "", "  "); err != nil {
		t.Fatalf("not valid JSON: %v\n%s", err, body)
	}
	return out.String() + "\n"
}
