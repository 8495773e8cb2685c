package pick

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/weir-dev/weir/adapters/canon"
)

// bytesPerToken is what a token is taken for where nobody has counted.
const bytesPerToken = 4

// AppendBlocks appends the chained hashes of a prompt's blocks of blockTokens tokens, of four bytes each. The hash of a block
// stands for all that comes before it as well. What is left after the last whole block is not hashed.
//
// The order is that of chat templates: model, tools, messages. Callers that say the same in different dialects get the same
// hashes: JSON counts without its white space, Developer is System, and the boundaries of a message's parts, the identifiers of
// calls and what is not part of the prompt do not count. The hashes are the same in every process and version.
func AppendBlocks(dst []uint64, model string, req *canon.Request, blockTokens int) []uint64 {
	if blockTokens <= 0 {
		return dst
	}
	c := chain{out: dst, room: blockTokens * bytesPerToken, block: blockTokens * bytesPerToken}
	c.digest.ResetWithSeed(xxhash.Sum64String(model))
	for i := range req.Tools {
		t := &req.Tools[i]
		c.text("\x00tool\x00")
		c.text(t.Name)
		c.text("\x00")
		c.text(t.Description)
		c.text("\x00")
		c.json(t.Parameters)
	}
	for i := range req.Messages {
		m := &req.Messages[i]
		role := m.Role
		if role == canon.RoleDeveloper {
			role = canon.RoleSystem
		}
		c.text("\x00")
		c.text(string(role))
		c.text("\x00")
		c.text(m.Name)
		c.text("\x00")
		c.parts(m.Parts)
	}
	return c.out
}

// chain cuts what is written into blocks.
type chain struct {
	digest xxhash.Digest
	out    []uint64
	block  int // bytes
	room   int // left in the block
}

func (c *chain) text(s string) {
	for len(s) >= c.room {
		_, _ = c.digest.WriteString(s[:c.room]) // a Digest's writes never fail
		s = s[c.room:]
		h := c.digest.Sum64()
		c.out = append(c.out, h)
		c.digest.ResetWithSeed(h)
		c.room = c.block
	}
	_, _ = c.digest.WriteString(s)
	c.room -= len(s)
}

// json writes JSON text without the white space between its tokens.
func (c *chain) json(raw []byte) {
	start, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch b := raw[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case !quoted && (b == ' ' || b == '\n' || b == '\r' || b == '\t'):
			c.text(string(raw[start:i]))
			start = i + 1
		}
	}
	c.text(string(raw[start:]))
}

func (c *chain) parts(parts []canon.Part) {
	for i := range parts {
		switch p := &parts[i]; p.Kind {
		case canon.PartText, canon.PartReasoning, canon.PartRefusal:
			c.text(p.Text)
		case canon.PartImage:
			if p.Image != nil {
				c.image(p.Image)
			}
		case canon.PartToolCall:
			if p.Call != nil {
				c.text("\x00call\x00")
				c.text(p.Call.Name)
				c.text("\x00")
				c.json([]byte(p.Call.Arguments))
			}
		case canon.PartToolResult:
			if p.Result != nil {
				c.text("\x00result\x00")
				c.parts(p.Result.Parts)
			}
		}
	}
}

// image writes a picture's hash: its bytes say nothing about its tokens.
func (c *chain) image(i *canon.Image) {
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], xxhash.Sum64String(i.Data)^xxhash.Sum64String(i.URL))
	c.text("\x00image\x00")
	c.text(string(sum[:]))
}
