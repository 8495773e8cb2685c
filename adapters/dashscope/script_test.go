package dashscope

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the diff before you keep it")

const ruler = "\n-----\n"

// golden runs every file of a testdata folder: the input stands above the ruler, the output below.
func golden(t *testing.T, dir string, run func(t *testing.T, in []byte) string) {
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
			in, want, _ := strings.Cut(string(text), ruler)
			got := strings.TrimRight(run(t, []byte(in)), "\n") + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(in+ruler+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("output differs from %s\n got:\n%s\nwant:\n%s", file, got, want)
			}
		})
	}
}

func indent(t *testing.T, text []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		t.Fatalf("not valid JSON: %v\n%s", err, text)
	}
	return out.String()
}

// line prints an event on one line.
func line(ev *canon.Event) string {
	switch ev.Kind {
	case canon.EventStart:
		return fmt.Sprintf("start %q %q%s", ev.ID, ev.Model, usageWords(ev.Usage))
	case canon.EventText:
		return fmt.Sprintf("text %q", ev.Text)
	case canon.EventRefusal:
		return fmt.Sprintf("refusal %q", ev.Text)
	case canon.EventReasoning:
		return fmt.Sprintf("reasoning %q %q %q", ev.Text, ev.Signature, ev.Origin)
	case canon.EventToolStart:
		return fmt.Sprintf("tool %d %q %q", ev.Tool, ev.CallID, ev.Name)
	case canon.EventToolDelta:
		return fmt.Sprintf("args %d %q", ev.Tool, ev.Text)
	case canon.EventFinish:
		return fmt.Sprintf("finish %q %q", ev.Finish, ev.StopSequence)
	case canon.EventUsage:
		return "usage" + usageWords(ev.Usage)
	case canon.EventError:
		return fmt.Sprintf("error %q %q", ev.Err.Kind, ev.Err.Message)
	case canon.EventPing:
		return "ping"
	}
	return "unknown event"
}

func usageWords(u *canon.Usage) string {
	if u == nil {
		return ""
	}
	return fmt.Sprintf(" %d %d %d %d %d", u.Input, u.CacheRead, u.CacheWrite, u.Output, u.Reasoning)
}

// decode feeds the stream in the given pieces and prints the events.
func decode(pieces ...[]byte) string {
	var out strings.Builder
	emit := func(ev *canon.Event) { out.WriteString(line(ev) + "\n") }
	dec := outbound{}.NewStreamDecoder()
	for _, p := range pieces {
		p = bytes.Clone(p)
		dec.Feed(p, emit)
		for i := range p {
			p[i] = 'x' // the decoder must not keep the chunk
		}
	}
	dec.End(emit)
	return out.String()
}
