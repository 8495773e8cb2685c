package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/console/api"
)

// longAdminTimeout is how long a gateway may take for what goes through all that is kept.
const longAdminTimeout = 5 * time.Minute

func cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Show and purge the response cache of a running gateway",
		Long: `Show and purge the response cache of a running gateway, on its admin address. What the cache does is said by CachePolicies.

Figures are of the replica that is asked, since its start. A purge reaches all replicas that share answers by Redis, and else the replica
that is asked.`,
	}
	c.AddCommand(cacheStatsCommand(), cachePurgeCommand())
	return c
}

func cacheStatsCommand() *cobra.Command {
	var admin adminClient
	var output string
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show what the cache has, and what it has saved, by policy",
		Example: `  weir cache stats
  weir cache stats -o json --admin https://weir.example.com --admin-token-file token`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := admin.start(output); err != nil {
				return err
			}
			var s api.Cache
			if err := admin.get(c.Context(), "/api/cache", &s); err != nil {
				return err
			}
			if output == outputJSON {
				return writeJSON(c.OutOrStdout(), &s)
			}
			return printCache(c.OutOrStdout(), &s)
		},
	}
	admin.bindOutput(c, &output)
	return c
}

// The values of --output.
const (
	outputText = "text"
	outputJSON = "json"
)

// bindOutput adds the flags of commands that ask a gateway and print its answer.
func (a *adminClient) bindOutput(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", outputText, "text or json")
	a.bind(c.Flags())
}

// start reads what those flags say.
func (a *adminClient) start(output string) error {
	if output != outputText && output != outputJSON {
		return fmt.Errorf("--output %q: use text or json", output)
	}
	return a.open()
}

func writeJSON(w io.Writer, body any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(body)
}

func printCache(w io.Writer, s *api.Cache) error {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	shared := map[string]string{"off": "no: each replica keeps its own answers", "down": "REDIS DOES NOT ANSWER: this replica uses its memory alone", "up": "by Redis"}[s.Redis]
	if s.Replicas > 0 {
		shared += fmt.Sprintf(", %d replicas", s.Replicas)
	}
	fmt.Fprintf(t, "Shared\t%s\n", shared)
	fmt.Fprintf(t, "Being bought\t%d answers, %s\n", s.Buying, bytesText(s.BuyingBytes))
	if s.Queue > 0 {
		fmt.Fprintf(t, "Waiting for Redis\t%d answers\n", s.Queue)
	}
	_ = t.Flush() // a strings.Builder takes everything
	if len(s.Policies) == 0 {
		text.WriteString("\nNo CachePolicy is in use.\n")
	} else {
		fmt.Fprintln(t, "\nPOLICY\tENTRIES\tMEMORY\tHIT RATIO\tHITS (MEMORY, REDIS)\tSTALE\tNEGATIVE\tSHARED\tMISSES\tSAVED TOKENS (IN, OUT)\tSAVED COST")
	}
	for i := range s.Policies {
		p := &s.Policies[i]
		memory := "none"
		if p.MaxBytes > 0 {
			memory = bytesText(p.Bytes) + " of " + bytesText(p.MaxBytes)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%d, %d\t%d\t%d\t%d\t%d\t%s, %s\t%s\n", p.ID, p.Entries, memory, percentText(p.HitRatio), p.Hits.Memory, p.Hits.Redis,
			p.Stale, p.Negative, p.Shared, p.Misses, short(float64(p.SavedTokens.Input)), short(float64(p.SavedTokens.Output)), amountsText(p.SavedCost))
	}
	_ = t.Flush()
	filters := false
	for i := range s.Policies {
		p := &s.Policies[i]
		if p.Bloom == nil {
			continue
		}
		if !filters {
			filters = true
			fmt.Fprintln(t, "\nBLOOM FILTER\tSTATE\tKEYS\tMADE FOR\tMEMORY\tREDIS SPARED\tFALSE POSITIVES\tCONFIGURED")
		}
		b := p.Bloom
		state := "ready"
		if !b.Ready {
			state = "being made"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\n", p.ID, state, b.Keys, b.MaxKeys, bytesText(b.Bytes), b.Spared, percentText(b.FalsePositives), percentText(&b.ConfiguredFalsePositives))
	}
	_ = t.Flush()
	_, err := io.WriteString(w, cleanText(text.String()))
	return err
}

// amountsText are amounts of money, of each currency one; "-" where there is none.
func amountsText(list []api.Amount) string {
	if len(list) == 0 {
		return "-"
	}
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.Amount + " " + a.Currency
	}
	return strings.Join(texts, ", ")
}

// percentText is a part of a whole as a percentage; "-" where there is none.
func percentText(v *float64) string {
	if v == nil {
		return "-"
	}
	return strconv.FormatFloat(*v*100, 'f', 1, 64) + "%"
}

// bytesText is an amount of memory in the unit that leaves few digits.
func bytesText(n int64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 || v >= 99.95 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

func cachePurgeCommand() *cobra.Command {
	var admin adminClient
	var output string
	var what api.CachePurge
	c := &cobra.Command{
		Use:   "purge",
		Short: "Remove answers from the cache",
		Long: `Remove answers from the cache: those for which all that is given is true. One at least of --tenant, --model, --tag, --policy and --key
has to be given. What is being bought at this moment is not kept.

The exit code is 0 where the answers are surely gone from Redis and all replicas.`,
		Example: `  weir cache purge --policy default/chat
  weir cache purge --tenant acme --tag catalogue`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if what == (api.CachePurge{}) {
				return errors.New("nothing is selected: give --tenant, --model, --tag, --policy or --key")
			}
			if what.Policy != "" && !strings.Contains(what.Policy, "/") {
				return fmt.Errorf("--policy %q: give namespace/name, as in default/%s", what.Policy, what.Policy)
			}
			if err := admin.start(output); err != nil {
				return err
			}
			admin.patience = longAdminTimeout
			var done api.CachePurged
			if err := admin.post(c.Context(), "/api/cache/purge", &what, &done); err != nil {
				return err
			}
			if output == outputJSON {
				return writeJSON(c.OutOrStdout(), done)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s purged\n", plural(done.Purged, "answer"))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&what.Tenant, "tenant", "", "whose answers: of the tenant who bought them")
	f.StringVar(&what.Model, "model", "", "model, by the name of who bought the answer")
	f.StringVar(&what.Tag, "tag", "", "tag of the policy or of a caller")
	f.StringVar(&what.Policy, "policy", "", "CachePolicy, namespace/name")
	f.StringVar(&what.Key, "key", "", "key of one answer, 64 hexadecimal digits")
	admin.bindOutput(c, &output)
	return c
}

// delete reads the answer of a deletion into out.
func (a *adminClient) delete(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodDelete, path, nil, out)
}

// plural is a number of things.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}
