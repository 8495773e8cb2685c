package responses

import (
	"bytes"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/openai"
)

// PrintChat prints what Compose has made, or what somebody made of that, as the body of a Chat Completions request, with what both of
// OpenAI's APIs can say and canon cannot. dropped names what of the request it does not say.
func (r *Request) PrintChat(composed *canon.Request) (body []byte, dropped []string, err *canon.Error) {
	c := *composed
	c.Extra = nil
	call, err := openai.Dialect().Out.BuildCall(&c, canon.CallOptions{Model: c.Model})
	if err != nil {
		return nil, nil, err
	}
	body = bytes.TrimSuffix(call.Body, []byte("}"))
	for _, name := range r.chat.Extra {
		if v := r.echo.also(name); v != nil {
			body = append(body, `,"`...)
			body = append(body, chatName(name)...)
			body = append(body, `":`...)
			body = append(body, v...)
		} else {
			dropped = append(dropped, name)
		}
	}
	return append(body, '}'), append(dropped, call.Dropped...), nil
}

// chatName is what Chat Completions calls a field.
func chatName(name string) string {
	if name == "text.verbosity" {
		return "verbosity"
	}
	return name
}
