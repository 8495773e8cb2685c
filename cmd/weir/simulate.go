package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/test/simulate"
)

func simulateCommand() *cobra.Command {
	var (
		files    []string
		policies []string
		seeds    []uint
		check    bool
		asJSON   bool
		html     string
	)
	c := &cobra.Command{
		Use:   "simulate -f SCENARIO",
		Short: "Compare load policies on simulated inference servers, in virtual time",
		Long: "Compare load policies on simulated inference servers, in virtual time: what a day of traffic does takes seconds to know.\n" +
			"Scenarios are described in test/simulate/README.md; deploy/examples/simulate has some.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var reports []*simulate.Report
			for _, file := range files {
				s, err := simulate.Load(file)
				if err != nil {
					return err
				}
				if err := narrow(s, policies, seeds); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				r, err := simulate.Compare(c.Context(), s)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				reports = append(reports, r)
				if asJSON {
					continue
				}
				if len(reports) > 1 {
					fmt.Fprintln(c.OutOrStdout())
				}
				if err := r.WriteTable(c.OutOrStdout()); err != nil {
					return err
				}
			}
			if asJSON {
				if err := simulate.WriteJSON(c.OutOrStdout(), reports); err != nil {
					return err
				}
			}
			if html != "" {
				if err := writeFile(html, func(w io.Writer) error { return simulate.WriteHTML(w, reports) }); err != nil {
					return err
				}
			}
			if check && slices.ContainsFunc(reports, func(r *simulate.Report) bool { return !r.Passed() }) {
				return quietError{}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVarP(&files, "file", "f", nil, "scenario; more than one are run one after the other")
	f.StringSliceVar(&policies, "policy", nil, "only these policies of the scenario, by name; bars that need others are left out")
	f.UintSliceVar(&seeds, "seed", nil, "these seeds instead of the scenario's")
	f.BoolVar(&check, "check", false, "exit with code 1 if a bar is missed")
	f.BoolVar(&asJSON, "json", false, "print JSON instead of tables")
	f.StringVar(&html, "html", "", "write a page with charts to this file as well")
	_ = c.MarkFlagRequired("file")
	return c
}

// narrow leaves some of a scenario out.
func narrow(s *simulate.Scenario, policies []string, seeds []uint) error {
	if len(seeds) > 0 {
		s.Seeds = nil
		for _, seed := range seeds {
			if slices.Contains(s.Seeds, uint64(seed)) {
				return fmt.Errorf("seed %d is there twice", seed)
			}
			s.Seeds = append(s.Seeds, uint64(seed))
		}
	}
	if len(policies) == 0 {
		return nil
	}
	var kept []simulate.Policy
	for _, name := range policies {
		i := slices.IndexFunc(s.Policies, func(p simulate.Policy) bool { return p.Name == name })
		if i < 0 {
			return fmt.Errorf("there is no policy %q under policies", name)
		}
		kept = append(kept, s.Policies[i])
	}
	s.Policies = kept
	s.Bars = slices.DeleteFunc(s.Bars, func(b simulate.Bar) bool {
		return !slices.Contains(policies, b.Policy) || !slices.Contains(policies, b.Against)
	})
	return nil
}

// writeFile writes a file whole, or says what went wrong.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.Close()
}
