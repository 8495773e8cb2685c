package relay

import (
	"github.com/weir-dev/weir/extproc/table"
)

// NamesSession says whether a request names a conversation, or tries to: what is wrong with the name, the relay tells.
func NamesSession(p *table.Kept[table.SessionPolicy], header func(name string) string) bool {
	name, err := p.Policy.Name(header)
	return name != "" || err != nil
}
