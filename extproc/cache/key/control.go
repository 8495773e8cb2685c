package key

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// ControlHeader is the request header by which callers say what they want of the cache. It has the directives of Cache-Control
// in requests (RFC 9111, section 5.2.1) and one of Weir's own, cache.
const ControlHeader = "x-weir-cache-control"

// Control is what ControlHeader says.
type Control struct {
	Cache        bool // cache: answer from the cache, or keep the answer, where the policy leaves it to callers
	NoStore      bool // neither answer from the cache nor keep the answer
	NoCache      bool // do not answer from the cache; the answer may be kept
	OnlyIfCached bool // answer from the cache, or with 504
	// MaxAge is the greatest age that the caller takes; None where it did not say.
	MaxAge time.Duration
	// MinFresh is how long the answer must stay fresh from now on; 0 where the caller did not say.
	MinFresh time.Duration
	// MaxStale is how long the answer may be past its time to live; None where the caller did not say, and then the policy does.
	MaxStale time.Duration
}

// None stands for a time that was not given.
const None = time.Duration(-1)

// forever is what a number of seconds that does not fit means (RFC 9111, section 1.2.2).
const forever = math.MaxInt32 * time.Second

// ParseControl reads the values of ControlHeader. Directives that it does not know are ignored, no-transform among them, because
// the cache never transforms; one that it knows with an argument that makes no sense is an ErrInvalidRequest, since ignoring
// max-age=1O would serve what the caller excluded. Of two equal directives the stricter counts.
func ParseControl(values ...string) (Control, *canon.Error) {
	c := Control{MaxAge: None, MaxStale: None}
	for _, rest := range values {
		for rest != "" {
			var name, arg string
			var given bool
			name, arg, given, rest = directive(rest)
			switch strings.ToLower(name) {
			case "cache":
				c.Cache = true
			case "no-store":
				c.NoStore = true
			case "no-cache":
				c.NoCache = true
			case "only-if-cached":
				c.OnlyIfCached = true
			case "max-age":
				d, err := seconds("max-age", arg)
				if err != nil {
					return c, err
				}
				if c.MaxAge == None || d < c.MaxAge {
					c.MaxAge = d
				}
			case "min-fresh":
				d, err := seconds("min-fresh", arg)
				if err != nil {
					return c, err
				}
				c.MinFresh = max(c.MinFresh, d)
			case "max-stale":
				d := forever // without a number: however stale
				if given {
					var err *canon.Error
					if d, err = seconds("max-stale", arg); err != nil {
						return c, err
					}
				}
				if c.MaxStale == None || d < c.MaxStale {
					c.MaxStale = d
				}
			}
		}
	}
	return c, nil
}

// Asks tells whether the caller wants the cache to take part, as a policy of OptIn demands.
func (c *Control) Asks() bool {
	return !c.NoStore && (c.Cache || c.NoCache || c.OnlyIfCached || c.MaxAge != None || c.MinFresh > 0 || c.MaxStale != None)
}

// Takes tells whether the caller takes an answer of that age, whose time to live is ttl. stale is how long after it the policy
// serves answers; a caller's max-stale may only make it shorter.
func (c *Control) Takes(age, ttl, stale time.Duration) bool {
	if c.NoStore || c.NoCache || c.MaxAge != None && age > c.MaxAge {
		return false
	}
	if c.MaxStale != None {
		stale = min(stale, c.MaxStale)
	} else if c.MaxAge != None || c.MinFresh > 0 {
		stale = 0 // RFC 9111: without max-stale these ask for what is fresh
	}
	if c.MinFresh > 0 {
		return ttl-age >= c.MinFresh
	}
	return age <= ttl+stale
}

// directive cuts the first directive off a list; given tells that it has an argument, if only an empty one. A quotation mark without a
// second one begins no quoted string: it would hide all directives after it.
func directive(list string) (name, arg string, given bool, rest string) {
	list = strings.TrimLeft(list, " \t,")
	end := strings.IndexAny(list, "=,")
	if end < 0 {
		return strings.TrimRight(list, " \t"), "", false, ""
	}
	name = strings.TrimRight(list[:end], " \t")
	if list[end] == ',' {
		return name, "", false, list[end+1:]
	}
	list = strings.TrimLeft(list[end+1:], " \t")
	if strings.HasPrefix(list, `"`) {
		var b strings.Builder
		for i := 1; i < len(list); i++ {
			switch {
			case list[i] == '"':
				_, rest, _ = strings.Cut(list[i+1:], ",")
				return name, b.String(), true, rest
			case list[i] == '\\' && i+1 < len(list):
				i++
			}
			b.WriteByte(list[i])
		}
	}
	arg, rest, _ = strings.Cut(list, ",")
	return name, strings.TrimSpace(arg), true, rest
}

// seconds reads delta-seconds (RFC 9111, section 1.2.2).
func seconds(name, arg string) (time.Duration, *canon.Error) {
	if arg == "" || strings.Trim(arg, "0123456789") != "" {
		return 0, &canon.Error{
			Kind: canon.ErrInvalidRequest, Param: ControlHeader,
			Message: "The header " + ControlHeader + " has " + name + " without a whole number of seconds: write " + name + "=60, for example.",
		}
	}
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || n > math.MaxInt32 {
		return forever, nil
	}
	return time.Duration(n) * time.Second, nil
}
