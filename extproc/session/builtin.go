package session

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// slotRef is {{slot}} in instructions.
var slotRef = regexp.MustCompile(`\{\{ *[A-Za-z_][A-Za-z0-9_]* *\}\}`)

// What words the built-in events are found by, in English and Chinese. They are a beginning: an assistant that needs to be sure gives its own in
// stateMachine.events, or asks a model.
var (
	adjusts = regexp.MustCompile(`(?i)\b(but|change|instead|rather|make it|different|adjust|modify|update it)\b|改成|改为|改一下|换成|换个|调整|修改|不是.{0,20}(而)?是`)
	denies  = regexp.MustCompile(`(?i)^\W*(no|nope|nah|cancel|stop|don'?t|do not|never ?mind|abort)\b|^\s*(不要|不行|不用|不对|不是|不了|不|取消|算了|别)`)
	agrees  = regexp.MustCompile(`(?i)^\W*(yes|yep|yeah|yup|ok|okay|sure|confirm(ed)?|go ahead|do it|please do|proceed|correct|right|exactly|agreed|sounds good)\b|^\s*(好|可以|确认|是的|对|行|没问题|同意|继续|嗯)`)
	asks    = regexp.MustCompile(`(?i)\b(shall i|should i|do you want me to|would you like me to|may i go ahead|please confirm|can you confirm|do you confirm|is (that|this) (ok|okay|right|correct)|proceed\s*\?|go ahead\s*\?)|请确认|是否(确认|继续|需要我)|可以吗|要不要我|对吗|需要我.{0,30}吗`)
	// opens are questions of that form that yes or no does not answer.
	opens = regexp.MustCompile(`(?i)\b(what|which|when|where|how|who|whom)\b[^.!?\n]{0,40}\b(shall|should|would|may|do)\b`)
)

// One of these is in whatever the first and the fourth of them find: texts are long, and to look for words is much faster than for expressions.
var (
	adjustsWords = []string{"but", "change", "instead", "rather", "make it", "different", "adjust", "modify", "update it", "改", "换", "调整", "不是"}
	asksWords    = []string{"shall i", "should i", "want me to", "like me to", "may i go", "confirm", "is that", "is this", "proceed", "go ahead",
		"确认", "是否", "可以吗", "要不要我", "对吗", "需要我"}
)

// mentions says whether one of some words is in what was said, in whatever case.
func (w *said) mentions(words []string) bool {
	if w.lower == "" {
		w.lower = strings.ToLower(w.text)
	}
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(w.lower, word) })
}

// builtinEvents are the events that every machine knows, in the order in which they are tried.
func builtinEvents() []*EventRule {
	user := func(name string, f func(*said) bool) *EventRule {
		return &EventRule{Name: name, From: User, builtin: f}
	}
	answer := func(name string, f func(*said) bool) *EventRule {
		return &EventRule{Name: name, From: Assistant, builtin: f}
	}
	return []*EventRule{
		user("tool_result", func(w *said) bool { return w.tools }),
		user("adjust", func(w *said) bool { return w.mentions(adjustsWords) && adjusts.MatchString(w.text) }),
		user("deny", func(w *said) bool { return denies.MatchString(w.text) }),
		user("confirm", func(w *said) bool { return agrees.MatchString(w.text) }),
		user("user_message", func(w *said) bool { return w.text != "" }),
		answer("tool_call", func(w *said) bool { return w.calls }),
		answer("proposal", func(w *said) bool {
			return w.mentions(asksWords) && asks.MatchString(w.text) && !opens.MatchString(w.text)
		}),
		answer("question", func(w *said) bool {
			text := strings.TrimRight(w.text, " \t\r\n*_\"'”’)）")
			return strings.HasSuffix(text, "?") || strings.HasSuffix(text, "？")
		}),
		answer("answer", func(*said) bool { return true }),
	}
}

// builtinTable is the machine of an assistant that proposes, is told to go on or to change something, acts and reports.
func builtinTable() (string, []*State, []*Transition) {
	const (
		idle       = "idle"
		confirming = "awaiting_confirmation"
		adjusting  = "adjusting"
		asking     = "asking_again"
		executing  = "executing"
		reporting  = "reporting"
	)
	states := []*State{
		{Name: idle},
		{Name: confirming, Timeout: 10 * time.Minute, OnTimeout: idle},
		{Name: adjusting, Timeout: 15 * time.Minute, OnTimeout: idle},
		{Name: asking, Timeout: 15 * time.Minute, OnTimeout: idle},
		{Name: executing, Timeout: 10 * time.Minute, OnTimeout: reporting},
		{Name: reporting, Timeout: 30 * time.Minute, OnTimeout: idle},
	}
	on := func(event, to string, from ...string) *Transition { return &Transition{From: from, To: to, On: event} }
	return idle, states, []*Transition{
		// What the user says.
		on("adjust", adjusting, confirming, reporting),
		on("deny", adjusting, confirming),
		on("confirm", executing, confirming),
		on("user_message", asking, confirming), // neither yes nor no
		on("user_message", adjusting, asking),  // an answer to what was asked
		on("tool_result", executing),
		// What the model answers.
		on("tool_call", executing),
		on("proposal", confirming),
		on("question", asking),
		on("answer", reporting, executing, adjusting, asking),
		on(EventFailed, asking, executing),
		on(EventAborted, adjusting, executing), // who stops it wants something else
	}
}
