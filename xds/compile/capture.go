package compile

import (
	"fmt"
	"slices"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/content"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

// captures compiles what the gateways want of the text of their requests.
func (c *compiler) captures() {
	for _, g := range c.objs.Gateways {
		spec := g.Spec.Telemetry.CaptureContent
		if spec == nil {
			continue
		}
		ref := source.ObjectRef{Kind: "LLMGateway", Namespace: g.Namespace, Name: g.Name}
		rule := c.capture(ref, spec)
		if c.out.Table.Captures == nil {
			c.out.Table.Captures = map[string]*content.Rule{}
		}
		c.out.Table.Captures[g.Namespace+"/"+g.Name] = rule
	}
}

// maxCaptured is the largest MaxBytes, by the API types.
const maxCaptured = 1 << 20

func (c *compiler) capture(ref source.ObjectRef, spec *v1alpha1.CaptureContent) *content.Rule {
	const field = "spec.telemetry.captureContent"
	rule := &content.Rule{
		Input:  slices.Contains(spec.Parts, v1alpha1.ContentInput),
		Output: slices.Contains(spec.Parts, v1alpha1.ContentOutput),
	}
	if !rule.Input && !rule.Output {
		c.errorf(ref, field+".parts", "it names no part; write Input, Output or both, or leave captureContent out")
	}
	if len(spec.Models) > 0 {
		models, err := identity.NewPatterns(spec.Models)
		if err != nil {
			c.errorf(ref, field+".models", "%v", err)
		}
		rule.Models = models
	}
	for i, text := range spec.Redact {
		re, err := content.Expression(text)
		if err != nil {
			c.errorf(ref, fmt.Sprintf("%s.redact[%d]", field, i), "%v", err)
			continue
		}
		rule.Redact = append(rule.Redact, re)
	}
	n, whole := spec.MaxBytes.AsInt64()
	if !whole || n < 1 || n > maxCaptured {
		c.errorf(ref, field+".maxBytes", "%s is not a whole number of bytes between 1 and 1Mi", spec.MaxBytes.String())
	}
	rule.MaxBytes = int(n)
	return rule
}
