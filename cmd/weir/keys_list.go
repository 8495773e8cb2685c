package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc/identity/keystore"
)

// keyRow is one key as it is listed.
type keyRow struct {
	Namespace         string    `json:"namespace"`
	Name              string    `json:"name"`
	Consumer          string    `json:"consumer"`
	Prefix            string    `json:"prefix,omitempty"`
	State             string    `json:"state"`  // active, expired, disabled, or no consumer
	Source            string    `json:"source"` // file or Redis
	Created           time.Time `json:"created,omitzero"`
	ExpiresAt         time.Time `json:"expiresAt,omitzero"`
	RequestsPerMinute int64     `json:"requestsPerMinute,omitempty"`
	AllowedModels     []string  `json:"allowedModels,omitempty"`
	AllowedCIDRs      []string  `json:"allowedCIDRs,omitempty"`
	Scopes            []string  `json:"scopes,omitempty"`
}

func keysListCommand() *cobra.Command {
	var dir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "list -f DIR",
		Short: "List API keys: whose they are, how they are and what they may do",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f := openKeyFolder(dir, c.ErrOrStderr())
			defer f.close()
			if err := f.needGateway(); err != nil {
				return err
			}
			rows, err := f.list(c.Context(), time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(c.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(rows)
			}
			return printKeys(c.OutOrStdout(), rows)
		},
	}
	folderFlag(c, &dir)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (f *keyFolder) list(ctx context.Context, now time.Time) ([]keyRow, error) {
	rows := []keyRow{}
	for _, k := range f.objs.APIKeys {
		r := recordOf(k)
		path, err := f.path(k)
		if err != nil {
			return nil, err
		}
		rows = append(rows, f.row(&r, path, now))
	}
	if f.inRedis() {
		err := f.withStore(ctx, func(ctx context.Context, s *keystore.Store) error {
			list, problems, err := s.List(ctx)
			for _, p := range problems {
				fmt.Fprintln(f.err, p)
			}
			for i := range list {
				rows = append(rows, f.row(&list[i].Record, "Redis", now))
			}
			if err != nil {
				return err
			}
			if lost, err := s.Lost(ctx); err != nil || !lost {
				return err
			}
			fmt.Fprintln(f.err, "no key was written to Redis since its data began; if it has lost keys, every weir that runs keeps those that it knows in force, "+
				"and weir keys revoke NAME --force ends one of them")
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(rows, func(a, b keyRow) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return rows, nil
}

func (f *keyFolder) row(r *keystore.Record, where string, now time.Time) keyRow {
	state := "active"
	switch {
	case r.Disabled:
		state = "disabled"
	case !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt):
		state = "expired"
	case !f.hasConsumer(r.Namespace, r.Consumer):
		state = "no consumer"
	}
	return keyRow{
		Namespace: r.Namespace, Name: r.Name, Consumer: r.Consumer, Prefix: r.Prefix, State: state, Source: where,
		Created: r.Created, ExpiresAt: r.ExpiresAt, RequestsPerMinute: r.RequestsPerMinute,
		AllowedModels: r.AllowedModels, AllowedCIDRs: r.AllowedCIDRs, Scopes: r.Scopes,
	}
}

func printKeys(out io.Writer, rows []keyRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tNAME\tCONSUMER\tPREFIX\tSTATE\tEXPIRES\tLIMITS\tIN")
	for _, r := range rows {
		expires := "never"
		if !r.ExpiresAt.IsZero() {
			expires = r.ExpiresAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Namespace, r.Name, cmp.Or(r.Consumer, "-"), cmp.Or(r.Prefix, "-"), r.State, expires, cmp.Or(r.limits(), "-"), r.Source)
	}
	return w.Flush()
}

// limits says in one line what narrows a key.
func (r *keyRow) limits() string {
	var parts []string
	if r.RequestsPerMinute > 0 {
		parts = append(parts, fmt.Sprintf("%d/min", r.RequestsPerMinute))
	}
	if len(r.AllowedModels) > 0 {
		parts = append(parts, "models "+strings.Join(r.AllowedModels, ","))
	}
	if len(r.AllowedCIDRs) > 0 {
		parts = append(parts, "from "+strings.Join(r.AllowedCIDRs, ","))
	}
	return strings.Join(parts, "; ")
}
