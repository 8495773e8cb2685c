package openai

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// width is the native length of a model's vectors.
func width(model string) int {
	if strings.HasSuffix(model, "-large") {
		return 3072
	}
	return 1536
}

func (p Provider) embeddings(r *exchange.Request, b *jsontree.Node, _ []string) (*exchange.Reply, *failure) {
	name := b.Get("model").Str()
	if f := p.known(r, name); f != nil {
		return nil, f
	}
	if !strings.Contains(name, "embedding") {
		return nil, &failure{status: 403, kind: invalid, message: "You are not allowed to generate embeddings from this model"}
	}
	size := width(name)
	if d := b.Get("dimensions"); d != nil {
		if d.Int() > size {
			return nil, bad("dimensions", "", "Invalid value for 'dimensions' = %s. Must be less than or equal to %d.", d.JSON(), size)
		}
		size = d.Int()
	}
	inputs, f := inputsOf(b.Get("input"))
	if f != nil {
		return nil, f
	}
	type item struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	var out struct {
		Object string `json:"object"`
		Data   []item `json:"data"`
		Model  string `json:"model"`
		Usage  struct {
			Prompt int `json:"prompt_tokens"`
			Total  int `json:"total_tokens"`
		} `json:"usage"`
	}
	out.Object, out.Model = "list", name
	for i, in := range inputs {
		v := vector(r.Seed, in.text, size)
		out.Usage.Prompt += in.tokens
		it := item{"embedding", i, v}
		if b.Get("encoding_format").Str() == "base64" {
			raw := make([]byte, 0, 4*len(v))
			for _, x := range v {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
			}
			it.Embedding = base64.StdEncoding.EncodeToString(raw)
		}
		out.Data = append(out.Data, it)
	}
	out.Usage.Total = out.Usage.Prompt
	rep := exchange.JSON(200, out)
	rep.Summary = exchange.Summary{Model: name}
	rep.Usage = exchange.Usage{Input: out.Usage.Prompt}
	return rep, nil
}

type input struct {
	text   string
	tokens int
}

// inputsOf reads the four forms of input: a string, strings, tokens, lists of tokens.
func inputsOf(n *jsontree.Node) ([]input, *failure) {
	one := func(n *jsontree.Node) input {
		if n.Is(jsontree.Str) {
			return input{n.Text, tokens.Count(n.Text)}
		}
		return input{n.JSON(), len(n.List())}
	}
	if n.Is(jsontree.Str) || n.Items[0].Is(jsontree.Int) {
		for _, it := range n.List() {
			if !it.Is(jsontree.Int) {
				return nil, mixed()
			}
		}
		return []input{one(n)}, nil
	}
	var out []input
	for _, it := range n.List() {
		if it.Kind != n.Items[0].Kind {
			return nil, mixed()
		}
		out = append(out, one(it))
	}
	return out, nil
}

func mixed() *failure {
	return bad("input", "invalid_type", "Invalid 'input': give a string, strings, tokens or lists of tokens, not a mixture.")
}
