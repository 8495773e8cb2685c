package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envName is the environment variable of a flag: WEIR_DRAIN_TIMEOUT for --drain-timeout.
func envName(flag string) string {
	return "WEIR_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// bindEnv gives every flag its environment variable. A flag on the command line wins.
func bindEnv(c *cobra.Command) {
	for _, sub := range c.Commands() {
		bindEnv(sub)
	}
	c.Flags().VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + envName(f.Name) + "]" })
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		var err error
		c.Flags().VisitAll(func(f *pflag.Flag) {
			value, set := os.LookupEnv(envName(f.Name))
			if f.Changed || !set || err != nil {
				return
			}
			if bad := c.Flags().Set(f.Name, value); bad != nil {
				err = fmt.Errorf("environment variable %s: %w", envName(f.Name), bad)
			}
		})
		return err
	}
}
