package money

import (
	"fmt"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// FromAPI makes a Table of the prices of a Backend or of one of its models; nil for none. A kind of token without a
// price of its own costs what its basic kind does. Errors begin with the place in the list: "[1].output: ...".
func FromAPI(list []v1alpha1.Price) (*Table, error) {
	prices := make([]Price, len(list))
	for i := range list {
		if err := prices[i].read(&list[i]); err != nil {
			return nil, fmt.Errorf("[%d].%w", i, err)
		}
	}
	return NewTable(prices...)
}

func (p *Price) read(in *v1alpha1.Price) (err error) {
	p.Version = in.Version
	if in.EffectiveFrom != nil {
		p.From = in.EffectiveFrom.Time
	}
	amount := func(field string, value *v1alpha1.PriceAmount, otherwise Nano) Nano {
		if value == nil || err != nil {
			return otherwise
		}
		n, problem := ParseAmount(string(*value))
		if problem != nil {
			err = fmt.Errorf("%s: %w", field, problem)
		}
		return n
	}
	p.Input = amount("input", &in.Input, 0)
	p.Output = amount("output", &in.Output, 0)
	p.CacheRead = amount("cacheRead", in.CacheRead, p.Input)
	p.CacheWrite = amount("cacheWrite", in.CacheWrite, p.Input)
	p.Reasoning = amount("reasoning", in.Reasoning, p.Output)
	p.Request = amount("request", in.Request, 0)
	return err
}
