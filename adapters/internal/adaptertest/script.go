package adaptertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// Line prints an event the way scripts write it.
func Line(ev *canon.Event) string {
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

// Script reads events written as Line prints them.
func Script(t testing.TB, text string) []*canon.Event {
	t.Helper()
	var events []*canon.Event
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		ev := &canon.Event{}
		u := &canon.Usage{}
		word, rest, _ := strings.Cut(l, " ")
		var err error
		switch word {
		case "start":
			ev.Kind = canon.EventStart
			var n int
			n, err = fmt.Sscanf(rest, "%q %q %d %d %d %d %d", &ev.ID, &ev.Model, &u.Input, &u.CacheRead, &u.CacheWrite, &u.Output, &u.Reasoning)
			if n == 7 {
				ev.Usage = u
			} else if n == 2 {
				err = nil
			}
		case "text":
			_, err = fmt.Sscanf(rest, "%q", &ev.Text)
			ev.Kind = canon.EventText
		case "refusal":
			_, err = fmt.Sscanf(rest, "%q", &ev.Text)
			ev.Kind = canon.EventRefusal
		case "reasoning":
			_, err = fmt.Sscanf(rest, "%q %q %q", &ev.Text, &ev.Signature, &ev.Origin)
			ev.Kind = canon.EventReasoning
		case "tool":
			_, err = fmt.Sscanf(rest, "%d %q %q", &ev.Tool, &ev.CallID, &ev.Name)
			ev.Kind = canon.EventToolStart
		case "args":
			_, err = fmt.Sscanf(rest, "%d %q", &ev.Tool, &ev.Text)
			ev.Kind = canon.EventToolDelta
		case "finish":
			_, err = fmt.Sscanf(rest, "%q %q", &ev.Finish, &ev.StopSequence)
			ev.Kind = canon.EventFinish
		case "usage":
			_, err = fmt.Sscanf(rest, "%d %d %d %d %d", &u.Input, &u.CacheRead, &u.CacheWrite, &u.Output, &u.Reasoning)
			ev.Kind, ev.Usage = canon.EventUsage, u
		case "error":
			ev.Kind, ev.Err = canon.EventError, &canon.Error{}
			_, err = fmt.Sscanf(rest, "%q %q", &ev.Err.Kind, &ev.Err.Message)
		case "ping":
			ev.Kind = canon.EventPing
		default:
			err = fmt.Errorf("unknown word %q", word)
		}
		if err != nil {
			t.Fatalf("script line %q: %v", l, err)
		}
		events = append(events, ev)
	}
	return events
}
