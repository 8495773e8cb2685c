package accept

import (
	"fmt"
	"slices"

	"github.com/weir-dev/weir/xds/source"
)

// maxTrials bounds the versions that are tried to find out which of several changes Envoy refuses. One among n takes some 2 log2(n).
const maxTrials = 128

// search finds out which of several suspects Envoy refuses: half of them are tried, and halves of what is refused. Each trial is a version
// with what Envoy serves, and the suspects that are tried; those that are taken count to what it serves from then on. Nobody is blamed
// who was not refused alone, unless there are too many.
type search struct {
	groups   []group         // the first is tried; each is tried in the end
	whole    refusal         // of all of them
	left     int             // trials
	versions map[string]bool // that were compiled for the trial
}

type group struct {
	of []suspect
	refusal
}

// refusal is that of several together.
type refusal struct {
	set   *source.Objects // that was refused; nil where none was
	words string
}

// newSearch begins with nobody: what Envoy refuses even then is not the fault of a suspect.
func newSearch(suspects []suspect, is refusal) *search {
	return &search{groups: []group{{}, {suspects, is}}, whole: is, left: maxTrials, versions: map[string]bool{}}
}

// testing are the suspects that are tried.
func (s *search) testing() []suspect { return s.groups[0].of }

// taken says that Envoy takes those that are tried.
func (s *search) taken() { s.groups = s.groups[1:] }

// refused says that Envoy refuses those that are tried, of which these are still what they were.
func (s *search) refused(of []suspect, is refusal) { s.groups[0] = group{of, is} }

// without forgets some of those that are tried: they are found already.
func (s *search) without(found []suspect) {
	g := &s.groups[0]
	g.of = slices.DeleteFunc(slices.Clone(g.of), func(x suspect) bool { return slices.Contains(found, x) })
	if len(g.of) == 0 {
		s.groups = s.groups[1:]
	}
}

// finding is a suspect that Envoy refuses.
type finding struct {
	of suspect
	refusal
}

// next makes ready what is tried next, and returns those that are found by then. done says that there is nothing left to try.
func (s *search) next() (found []finding, done bool) {
	s.versions = map[string]bool{}
	for len(s.groups) > 0 {
		g := s.groups[0]
		switch {
		case s.left == 0:
			return append(found, s.rest()...), true
		case g.set == nil:
			s.left--
			return found, false
		case len(g.of) == 1:
			found = append(found, finding{g.of[0], g.refusal})
			s.groups = s.groups[1:]
		default:
			half := len(g.of) / 2
			s.groups = append([]group{{of: g.of[:half]}, {of: g.of[half:]}}, s.groups[1:]...)
		}
	}
	return found, true
}

// rest are all that are left when there were too many trials: each was refused with others.
func (s *search) rest() (found []finding) {
	n := 0
	for _, g := range s.groups {
		n += len(g.of)
	}
	for _, g := range s.groups {
		for _, of := range g.of {
			found = append(found, finding{of, refusal{s.whole.set, fmt.Sprintf("it, or one of %d others that changed with it: %s", n-1, s.whole.words)}})
		}
	}
	return found
}
