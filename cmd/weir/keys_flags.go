package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/usage/ledger"
)

// keyFlags are what a new key may be given.
type keyFlags struct {
	consumer string
	expires  string
	models   []string
	cidrs    []string
	scopes   []string
	rpm      int64
	rpmGiven func() bool
}

func (k *keyFlags) bind(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.consumer, "consumer", "", "Consumer that the key belongs to, of the same namespace")
	f.StringVar(&k.expires, "expires", "", "when the key ends: a time to live (90d, 12h), a day (2027-01-31: as it begins, in UTC), a time (2027-01-31T12:00:00Z) or never (default: never)")
	f.StringSliceVar(&k.models, "models", nil, "models that the key may ask for, with * for any characters (default: those of the consumer)")
	f.StringSliceVar(&k.cidrs, "cidrs", nil, "networks that the key may be used from, such as 10.1.0.0/16 (default: any)")
	f.StringSliceVar(&k.scopes, "scopes", nil, "scopes of the key, beside the consumer's")
	k.rpmGiven = func() bool { return f.Changed("rpm") }
	f.Int64Var(&k.rpm, "rpm", 0, "requests that the key may make per minute (default: no limit of its own)")
}

// record makes a record of the flags, without a hash.
func (k *keyFlags) record(namespace, name string, now time.Time) (keystore.Record, error) {
	r := keystore.Record{
		Namespace: namespace, Name: name, Consumer: k.consumer, Created: now.UTC().Truncate(time.Second),
		AllowedModels: k.models, AllowedCIDRs: k.cidrs, Scopes: k.scopes, RequestsPerMinute: k.rpm,
	}
	if k.consumer == "" {
		return r, fmt.Errorf("say whom the key is for, with --consumer")
	}
	if k.rpmGiven() && k.rpm <= 0 {
		return r, fmt.Errorf("--rpm %d: give a number above 0, or leave it out for no limit of the key's own", k.rpm)
	}
	for _, s := range k.cidrs {
		if _, err := netip.ParsePrefix(s); err != nil {
			return r, fmt.Errorf("--cidrs: %q is no network; write an address and the length of its prefix, such as 10.1.0.0/16 or 192.0.2.7/32", s)
		}
	}
	var err error
	r.ExpiresAt, err = parseExpiry(k.expires, now)
	return r, err
}

// parseExpiry reads --expires. The zero time is never.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" || s == "never" {
		return time.Time{}, nil
	}
	at, _, err := ledger.ParseWhen(s)
	if err != nil {
		life, bad := parseLife(s)
		if bad != nil {
			return time.Time{}, fmt.Errorf("--expires %q: give a time to live (90d, 12h), a day (2027-01-31), a time (2027-01-31T12:00:00Z) or never", s)
		}
		at = now.Add(life)
	}
	if !at.After(now) {
		return time.Time{}, fmt.Errorf("--expires %q: the key would have ended already", s)
	}
	return at.UTC().Truncate(time.Second), nil
}

// maxLife keeps arithmetic with times far from its limits.
const maxLife = 100 * 365 * 24 * time.Hour

// parseLife reads a duration, in days as well: 90d, 12h, 1d12h.
func parseLife(s string) (time.Duration, error) {
	var days time.Duration
	if n, rest, ok := strings.Cut(s, "d"); ok {
		d, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration; write 90d, 12h or 1d12h", s)
		}
		days = time.Duration(d) * 24 * time.Hour
		if rest == "" {
			return min(days, maxLife), nil
		}
		s = rest
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration; write 90d, 12h or 1d12h", s)
	}
	return min(days+d, maxLife), nil
}
