package anthropic

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// callIDs gives each call of a request an id that Anthropic takes, ^[a-zA-Z0-9_-]+$, and takes once,
// and each result the id of its call. Elsewhere ids are looser: some servers number the calls of
// every answer from call_0 on, some give none. What a call gets depends only on what stands before
// it, so that the next request of a conversation repeats it and a cached prompt stays valid.
type callIDs struct {
	used map[string]int    // an id that was given or wanted -> how often
	last map[string]string // the caller's id -> what its last call got
	open []openCall        // calls since the last result, in order, and their results so far
	shut bool              // results came: the next call is of another turn
}

type openCall struct {
	asked, given string
	answered     bool
}

// call gives the id of the next call.
func (c *callIDs) call(id string) string {
	if c.used == nil {
		c.used, c.last = map[string]int{}, map[string]string{}
	}
	if c.shut {
		c.open, c.shut = c.open[:0], false
	}
	wanted := acceptable(id)
	given := wanted
	if n := c.used[wanted]; n > 0 {
		for c.used[given] > 0 {
			n++
			given = digest(wanted + "#" + strconv.Itoa(n))
		}
		c.used[wanted] = n
	}
	c.used[given]++
	c.last[id] = given
	c.open = append(c.open, openCall{asked: id, given: given})
	return given
}

// result gives the id of the call that a result answers: the first unanswered one of the turn
// before it with that id, else the last one anywhere.
func (c *callIDs) result(id string) string {
	c.shut = true
	for i := range c.open {
		if o := &c.open[i]; o.asked == id && !o.answered {
			o.answered = true
			return o.given
		}
	}
	if given, ok := c.last[id]; ok {
		return given
	}
	return acceptable(id)
}

// acceptable is the id where Anthropic takes it as it is, else one made of it.
func acceptable(id string) string {
	switch {
	case validName(id, 0):
		return id
	case id == "":
		return "toolu_none"
	}
	return digest(id)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "toolu_" + hex.EncodeToString(sum[:12])
}
