package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
)

// plan is what becomes of a request.
type plan struct {
	// add are the messages that go before what the caller says.
	add []canon.Message
	// fresh are the caller's messages that the session does not have yet.
	fresh []canon.Message
	// own says that the caller sends a history of its own, so that none is added.
	own bool
	// turns that were added.
	turns int
	// all says that the caller sends nothing of what is kept.
	all bool
}

// bounds of what is added.
type bounds struct {
	turns  int
	tokens int64 // 0: none
}

// planOf decides what of a conversation is added to a request that says talk, which holds no system prompts.
//
//   - Where talk begins with what the conversation ends with, the caller sends that itself, and only what is before is added.
//   - Where it holds answers of a model and does not, the caller keeps its own history, which is not the one that is kept here (it was
//     edited, or another branch was taken): nothing is added, for both together would contradict each other.
//   - Else the last turns are added. The turn with the calls that talk answers is always one of them.
//
// Only those turns are opened that are added, or compared with what the caller sends.
func planOf(kept []Said, talk []canon.Message, b bounds) (plan, error) {
	turn, total := turnsOf(kept)
	first := total - b.turns // the first turn that is added
	if b.tokens > 0 {
		first = max(first, affordable(kept, total, b.tokens))
	}
	// What is compared: at the end as many atoms as the caller's messages have.
	said := atoms(talk)
	from, have := len(kept), 0
	for from > 0 && (have < len(said) || turn[from-1] >= first) {
		from--
		if err := kept[from].open(); err != nil {
			return plan{}, err
		}
		if have < len(said) {
			have += len(atoms(kept[from].Input)) + len(atoms(kept[from].Output))
		}
	}
	all, entry := flatten(kept[from:])
	cut, own := overlap(atoms(all), said)
	if own == 0 {
		cut = len(all)
		if answered(talk) > 0 {
			fresh := talk
			if len(kept) > 0 {
				fresh = talk[answered(talk):]
			}
			return plan{own: true, fresh: fresh}, nil
		}
	}
	out := plan{fresh: talk[own:], all: own == 0}
	last := -1 // the turn that goes last, whenever it was: results stand right behind their calls
	var chosen, end []canon.Message
	if ids := leadingResults(talk); len(ids) > 0 && own == 0 {
		i, err := lastCall(kept, ids)
		if err != nil {
			return plan{}, err
		}
		if i >= 0 {
			last = turn[i]
		}
		for i := range kept[:from] { // that is not open
			if turn[i] == last {
				if err := kept[i].open(); err != nil {
					return plan{}, err
				}
				end = append(append(end, kept[i].Input...), kept[i].Output...)
			}
		}
		if len(end) > 0 {
			out.turns++
		}
	}
	before := -1
	if len(end) > 0 {
		before = last
	}
	for i := range cut {
		of := turn[from+entry[i]]
		switch {
		case of == last:
			end = append(end, all[i])
		case of >= first:
			chosen = append(chosen, all[i])
		default:
			continue
		}
		if of != before {
			before = of
			out.turns++
		}
	}
	out.add = paired(append(chosen, end...), talk)
	return out, nil
}

// turnsOf says which turn each entry is of, and how many there are.
func turnsOf(kept []Said) (turn []int, total int) {
	turn = make([]int, len(kept))
	for i := range kept {
		if !kept[i].Continues || i == 0 {
			total++
		}
		turn[i] = total - 1
	}
	return turn, total
}

// flatten puts what open entries say in one list; entry says of which of them each message is.
func flatten(kept []Said) (all []canon.Message, entry []int) {
	for i := range kept {
		for _, list := range [...]Messages{kept[i].Input, kept[i].Output} {
			for _, m := range list {
				all, entry = append(all, m), append(entry, i)
			}
		}
	}
	return all, entry
}

// affordable is the first of the last turns that have no more tokens together.
func affordable(kept []Said, total int, tokens int64) int {
	first, turn := total, total
	for i := len(kept) - 1; i >= 0; i-- {
		if tokens -= kept[i].Tokens; tokens < 0 {
			break
		}
		if !kept[i].Continues || i == 0 {
			turn--
			first = turn
		}
	}
	return first
}

// answered is the index after the last message of a model.
func answered(talk []canon.Message) int {
	for i := len(talk) - 1; i >= 0; i-- {
		if talk[i].Role == canon.RoleAssistant {
			return i + 1
		}
	}
	return 0
}

// atom is the smallest part of what is said that can be compared over dialects, which divide messages differently.
type atom struct {
	what atomKey
	at   int // message
}

type atomKey struct {
	kind canon.PartKind
	role canon.Role // of a text
	id   string     // of a call or a result
	name string     // of a call
	text string
}

// atoms of messages: texts without the white space around them, which callers trim; no reasoning, which callers leave out.
func atoms(list []canon.Message) []atom {
	out := make([]atom, 0, len(list))
	for i := range list {
		text, joined := "", []byte(nil)
		flush := func() {
			if joined != nil {
				text, joined = string(joined), nil
			}
			if t := strings.TrimSpace(text); t != "" {
				out = append(out, atom{atomKey{role: list[i].Role, text: t}, i})
			}
			text = ""
		}
		for j := range list[i].Parts {
			p := &list[i].Parts[j]
			switch p.Kind {
			case canon.PartText, canon.PartRefusal:
				switch {
				case joined != nil:
					joined = append(joined, p.Text...)
				case text != "":
					joined = append([]byte(text), p.Text...)
				default:
					text = p.Text
				}
				continue
			case canon.PartReasoning:
				continue
			}
			flush()
			k := atomKey{kind: p.Kind}
			switch {
			case p.Image != nil:
				sum := sha256.Sum256([]byte(p.Image.URL + "\x00" + p.Image.Data))
				k.text = string(sum[:])
			case p.Call != nil:
				k.id, k.name, k.text = p.Call.ID, p.Call.Name, sameJSON(p.Call.Arguments)
			case p.Result != nil:
				k.id, k.text = p.Result.ID, strings.TrimSpace(resultText(p.Result))
			default:
				continue
			}
			out = append(out, atom{k, i})
		}
		flush()
	}
	return out
}

func resultText(r *canon.ToolResult) string {
	var b strings.Builder
	for i := range r.Parts {
		b.WriteString(r.Parts[i].Text)
	}
	return b.String()
}

// sameJSON writes JSON in one way, as far as it is JSON: members sorted, no white space, numbers as they were.
func sameJSON(text string) string {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return text
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return text
	}
	return strings.TrimSpace(b.String())
}

// overlap finds how the end of what is kept is the beginning of what the caller says: cut messages of what is kept are before that, own of the
// caller's are it, both 0 where there is no overlap.
func overlap(kept, said []atom) (cut, own int) {
	for n := min(len(kept), len(said)); n > 0; n-- {
		start := len(kept) - n
		whole := (start == 0 || kept[start-1].at != kept[start].at) && (n == len(said) || said[n].at != said[n-1].at)
		if whole && slices.EqualFunc(kept[start:], said[:n], func(x, y atom) bool { return x.what == y.what }) {
			return kept[start].at, said[n-1].at + 1
		}
	}
	return 0, 0
}

// paired leaves out calls that nothing answers, and results of calls that are not there: every provider refuses those. What follows the added
// messages may answer calls of the last of them.
func paired(add, talk []canon.Message) []canon.Message {
	out := make([]canon.Message, 0, len(add))
	open := map[string]bool{} // calls of the message of the model that came last
	for i := range add {
		m := add[i]
		switch m.Role {
		case canon.RoleAssistant:
			answers := map[string]bool{}
			for _, id := range leadingResults(add[i+1:]) {
				answers[id] = true
			}
			if onlyResults(add[i+1:]) {
				for _, id := range leadingResults(talk) {
					answers[id] = true
				}
			}
			clear(open)
			m.Parts = filter(m.Parts, func(p *canon.Part) bool {
				if p.Call != nil && answers[p.Call.ID] {
					open[p.Call.ID] = true
					return true
				}
				return p.Call == nil
			})
			if !says(m.Parts) {
				continue
			}
		case canon.RoleTool:
			m.Parts = filter(m.Parts, func(p *canon.Part) bool { return p.Result != nil && open[p.Result.ID] })
		default:
			clear(open)
		}
		if len(m.Parts) > 0 {
			out = append(out, m)
		}
	}
	return out
}

// says tells whether there is more than reasoning.
func says(parts []canon.Part) bool {
	return slices.ContainsFunc(parts, func(p canon.Part) bool { return p.Kind != canon.PartReasoning })
}

func onlyResults(list []canon.Message) bool {
	return !slices.ContainsFunc(list, func(m canon.Message) bool { return m.Role != canon.RoleTool })
}

// filter keeps some parts, without a copy where it keeps all.
func filter(parts []canon.Part, keep func(*canon.Part) bool) []canon.Part {
	for i := range parts {
		if !keep(&parts[i]) {
			out := slices.Clone(parts[:i])
			for j := i + 1; j < len(parts); j++ {
				if keep(&parts[j]) {
					out = append(out, parts[j])
				}
			}
			return out
		}
	}
	return parts
}

// unmarked are messages without marks of prompt caches, of which a request may have few: they are the caller's to set.
func unmarked(list []canon.Message) []canon.Message {
	for i := range list {
		if slices.ContainsFunc(list[i].Parts, func(p canon.Part) bool { return p.CacheMark }) {
			list = slices.Clone(list)
			for ; i < len(list); i++ {
				list[i].Parts = slices.Clone(list[i].Parts)
				for j := range list[i].Parts {
					list[i].Parts[j].CacheMark = false
				}
			}
			break
		}
	}
	return list
}

func isSystem(r canon.Role) bool { return r == canon.RoleSystem || r == canon.RoleDeveloper }
