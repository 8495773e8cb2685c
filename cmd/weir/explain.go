package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/console/api"
)

// steeringBody is the answer of /api/backends, as explain reads and prints it.
type steeringBody api.Steering

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain",
		Short: "Explain what a gateway does, and why",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(explainBackendsCommand(), explainRequestCommand())
	return c
}

func explainBackendsCommand() *cobra.Command {
	var admin adminClient
	var asJSON bool
	c := &cobra.Command{
		Use:   "backends [NAMESPACE/NAME...]",
		Short: "Explain the weight of every endpoint of the Backends that a LoadPolicy steers",
		RunE: func(c *cobra.Command, args []string) error {
			if err := admin.open(); err != nil {
				return err
			}
			var body steeringBody
			if err := admin.get(c.Context(), "/api/backends", &body); err != nil {
				return err
			}
			if err := body.only(args); err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(c.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(&body)
			}
			var text strings.Builder
			if err := body.print(&text); err != nil {
				return err
			}
			_, err := io.WriteString(c.OutOrStdout(), cleanText(text.String())) // signals say what servers wrote
			return err
		},
	}
	admin.bind(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print everything that is known, as JSON")
	return c
}

// only keeps the Backends that are named; all where none is.
func (b *steeringBody) only(names []string) error {
	if len(names) == 0 {
		return nil
	}
	var out []api.SteeredPool
	for _, name := range names {
		if !strings.Contains(name, "/") {
			name = "default/" + name
		}
		found := false
		for _, p := range b.Pools {
			if p.Backend == name {
				out, found = append(out, p), true
			}
		}
		if !found {
			return fmt.Errorf("no LoadPolicy steers a Backend %s", name)
		}
	}
	b.Pools = out
	return nil
}

func (b *steeringBody) print(w io.Writer) error {
	if len(b.Pools) == 0 {
		_, err := fmt.Fprintln(w, "No Backend is steered. A LoadPolicy steers the Backends that it names.")
		return err
	}
	if b.Refused != "" {
		fmt.Fprintf(w, "Envoy refused the last weights: %s\n\n", b.Refused)
	}
	for i, p := range b.Pools {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Backend %s, steered by LoadPolicy %s, picked by %s: share %s, %d requests and %d tokens in flight, %d waiting\n",
			p.Backend, p.Policy, p.Picking, decimalOf(p.Share), p.Requests, p.Tokens, p.Waiting)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  ENDPOINT\tSTATUS\tWEIGHT\tENVOY HAS\tIN FLIGHT\tTTFT\tWHY")
		for _, e := range p.Endpoints {
			ttft := "-"
			if e.Measured > 0 {
				ttft = strconv.FormatFloat(e.TTFT*1000, 'f', 0, 64) + " ms"
			}
			why := e.Why
			for _, s := range e.Signals {
				if s.Error != "" {
					why += " [" + s.Source + ": " + s.Error + "]"
				}
			}
			fmt.Fprintf(t, "  %s\t%s\t%d\t%d\t%d\t%s\t%s\n", e.Endpoint, e.Status, e.Weight, e.Published, e.Requests, ttft, why)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(b.Routes) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROUTE\tWEIGHTS")
	for _, r := range b.Routes {
		parts := make([]string, len(r.Backends))
		for i := range r.Backends {
			if parts[i] = r.Backends[i]; i < len(r.Weights) {
				parts[i] += " " + strconv.FormatUint(uint64(r.Weights[i]), 10)
			}
		}
		fmt.Fprintf(t, "%s\t%s\n", r.Route, strings.Join(parts, ", "))
	}
	return t.Flush()
}

func decimalOf(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
