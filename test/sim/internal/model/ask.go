// Package model is the "language model" behind the simulators: a pure function from what was asked
// to what is answered, the same for every dialect and on every run. It follows conventions instead
// of understanding: see Answer.
package model

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// Choice is how a caller restricts tool calls.
type Choice uint8

// The choices: the model decides, no calls, at least one call, a call of Ask.Name.
const (
	Auto Choice = iota
	None
	Required
	Named
)

// Ask is a request reduced to what decides the answer.
type Ask struct {
	// Seed and Prompt (the whole conversation as text) select the answer.
	Seed   uint64
	Prompt string
	// Last is the text of the last user message. Settled means that tool results came after it, so
	// its wish for a call is fulfilled.
	Last    string
	Settled bool
	// Results are the texts of the newest tool results.
	Results []string
	Images  []Image
	Tools   []Tool
	Choice  Choice
	Name    string
	// Parallel allows several calls at once.
	Parallel bool
	// WantJSON asks for JSON; Schema, when set, is what it must fit.
	WantJSON bool
	Schema   *jsontree.Node
	// Max bounds all output tokens; 0 means no bound.
	Max  int
	Stop []string
	// Think asks for reasoning first, of at most ThinkMax tokens when that is set.
	Think    bool
	ThinkMax int
	// Preface asks for a sentence before tool calls that were not forced.
	Preface bool
}

// Image is what the model sees of a picture.
type Image struct {
	// Type is the media type, Size the decoded bytes; URL is set instead when it was only referred to.
	Type string
	Size int
	URL  string
}

// String describes the image in the answer's words.
func (i Image) String() string {
	if i.URL != "" {
		return "an image at " + i.URL
	}
	return fmt.Sprintf("%s of %d bytes", i.Type, i.Size)
}

// Tool is a declared tool. A nil Schema means that it takes no arguments.
type Tool struct {
	Name   string
	Schema *jsontree.Node
}

// Finish is why the answer ended.
type Finish uint8

// The reasons.
const (
	Done Finish = iota
	Length
	Stopped
	Called
)

// Answer is what the model says, in tokens.
type Answer struct {
	Thinking []string
	Text     []string
	Calls    []Call
	Finish   Finish
	// StopSequence is the one that ended the text when Finish is Stopped.
	StopSequence string
}

// Call is a tool call; Args are the tokens of a JSON object.
type Call struct {
	Name string
	Args []string
}

// Tokens is the number of output tokens. The name of a called tool counts too.
func (a *Answer) Tokens() int {
	n := len(a.Thinking) + len(a.Text)
	for _, c := range a.Calls {
		n += c.Cost()
	}
	return n
}

// Cost is the number of tokens of a call: its arguments and its name.
func (c Call) Cost() int { return len(c.Args) + tokens.Count(c.Name) }

const (
	// minTokens is the shortest text when nothing cuts it.
	minTokens = 10
	// maxTokens bounds the length a prompt can ask for.
	maxTokens = 100_000
	// resultRunes is how much of a tool result an answer repeats.
	resultRunes = 200
)

var lengthAsked = regexp.MustCompile(`(?i)\b(\d{1,6})[ -](?:words?|tokens?)\b`)

// Answer answers. The rules, in order:
//
//   - a tool choice of required or of a name calls; with automatic choice "call the tool" in the last
//     user message calls, unless results came after it. All tools are called where parallel calls are
//     allowed, else one: the one that is named in the message, or the first;
//   - a wish for JSON gets a value that fits the schema, or a small object;
//   - otherwise text: what the tools said, what images were seen, then sentences. "N words" in the
//     prompt makes about N tokens.
func (k *Ask) Answer(variant int) Answer {
	rnd := k.random(variant)
	var a Answer
	if k.Think {
		n := 12 + rnd.IntN(24)
		if k.ThinkMax > 0 {
			n = min(n, k.ThinkMax)
		}
		a.Thinking = prose(rnd, "The request is clear.", n)
		a.Thinking = a.Thinking[:min(n, len(a.Thinking))]
	}
	calls := k.calls(rnd)
	switch {
	case len(calls) > 0:
		a.Finish = Called
		a.Calls = calls
		if k.Preface && k.Choice == Auto {
			a.Text = tokens.Split("I will call the tool now.")
		}
	case k.WantJSON:
		a.Text = tokens.Split(k.json(rnd))
	default:
		a.Text = k.text(rnd)
	}
	k.stop(&a)
	k.cut(&a, rnd)
	return a
}

// random seeds from the conversation, so that the same prompt always gets the same answer.
func (k *Ask) random(variant int) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(k.Prompt))
	return rand.New(rand.NewPCG(h.Sum64(), k.Seed+uint64(variant)*0x9E3779B97F4A7C15))
}

func (k *Ask) calls(rnd *rand.Rand) []Call {
	if len(k.Tools) == 0 || k.Choice == None {
		return nil
	}
	wanted := !k.Settled && strings.Contains(strings.ToLower(k.Last), "call the tool")
	if k.Choice == Auto && !wanted {
		return nil
	}
	var use []Tool
	switch {
	case k.Choice == Named:
		for _, t := range k.Tools {
			if t.Name == k.Name {
				use = []Tool{t}
				break
			}
		}
	case k.Parallel:
		use = k.Tools
	default:
		use = k.Tools[:1]
		for _, t := range k.Tools {
			if strings.Contains(k.Last, t.Name) {
				use = []Tool{t}
				break
			}
		}
	}
	out := make([]Call, 0, len(use))
	for _, t := range use {
		args := "{}"
		if t.Schema != nil {
			args = FitObject(t.Schema, rnd)
		}
		out = append(out, Call{t.Name, tokens.Split(args)})
	}
	return out
}

func (k *Ask) json(rnd *rand.Rand) string {
	if k.Schema != nil {
		return Fit(k.Schema, rnd)
	}
	return fmt.Sprintf(`{"answer":%q,"numbers":[%d,%d],"ok":true}`,
		strings.TrimSpace(strings.Join(prose(rnd, "", 12), "")), rnd.IntN(100), rnd.IntN(100))
}

func (k *Ask) text(rnd *rand.Rand) []string {
	var lead []string
	for _, r := range k.Results {
		lead = append(lead, "The tool answered: "+clip(r)+".")
	}
	if n := len(k.Images); n > 0 {
		var seen []string
		for _, i := range k.Images {
			seen = append(seen, i.String())
		}
		noun := "images"
		if n == 1 {
			noun = "image"
		}
		lead = append(lead, fmt.Sprintf("I see %d %s: %s.", n, noun, strings.Join(seen, "; ")))
	}
	n := minTokens + 14 + rnd.IntN(40)
	if m := lengthAsked.FindStringSubmatch(k.Last); m != nil {
		n, _ = strconv.Atoi(m[1])
		n = min(max(n, minTokens), maxTokens)
	}
	return prose(rnd, strings.Join(lead, " "), n)
}

func clip(s string) string {
	r := []rune(strings.TrimSpace(s))
	if len(r) > resultRunes {
		return string(r[:resultRunes]) + "…"
	}
	return strings.TrimSuffix(string(r), ".")
}

// stop ends the text before the first stop sequence. Calls after the text do not happen then.
func (k *Ask) stop(a *Answer) {
	if len(k.Stop) == 0 || len(a.Text) == 0 {
		return
	}
	text := strings.Join(a.Text, "")
	at, which := -1, ""
	for _, s := range k.Stop {
		if i := strings.Index(text, s); s != "" && i >= 0 && (at < 0 || i < at) {
			at, which = i, s
		}
	}
	if at < 0 {
		return
	}
	a.Text, a.Calls = tokens.Split(text[:at]), nil
	a.Finish, a.StopSequence = Stopped, which
}

// cut enforces Max. A call is never cut in two: calls that do not fit are dropped, and when none is
// left the tokens go to text, as a model would that was stopped early.
func (k *Ask) cut(a *Answer, rnd *rand.Rand) {
	if k.Max <= 0 || a.Tokens() <= k.Max {
		return
	}
	left := k.Max
	a.Finish, a.StopSequence = Length, ""
	take := func(list []string) []string {
		list = list[:min(len(list), left)]
		left -= len(list)
		return list
	}
	a.Thinking = take(a.Thinking)
	if len(a.Text) == 0 && len(a.Calls) > 0 && a.Calls[0].Cost() > left {
		a.Text = prose(rnd, "", left)
	}
	a.Text = take(a.Text)
	kept := a.Calls[:0]
	for _, c := range a.Calls {
		if c.Cost() > left {
			break
		}
		left -= c.Cost()
		kept = append(kept, c)
	}
	a.Calls = kept
}
