package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/console/api"
)

// nearEnd is the part of a limit from which on weir status shows who has used it.
const nearEnd = 0.8

// gatewayStatus is what weir status shows, and prints as JSON.
type gatewayStatus struct {
	Ready bool `json:"ready"`
	// Reason why it is not ready.
	Reason        string           `json:"reason,omitempty"`
	UptimeSeconds float64          `json:"uptimeSeconds"`
	Status        api.Status       `json:"status"`
	Totals        api.Totals       `json:"totals"`
	Backends      []backendLine    `json:"backends"`
	Breakers      []api.Breaker    `json:"breakers"` // those that are not closed
	Limits        []limitLine      `json:"limitsNearTheirEnd"`
	Trouble       []api.Dependency `json:"trouble"` // everything that Weir depends on and that is not well
}

// backendLine is a backend and how many of its endpoints take requests.
type backendLine struct {
	ID        string `json:"id"`
	Health    string `json:"health"`
	Why       string `json:"why,omitempty"`
	Endpoints int    `json:"endpoints"`
	Active    int    `json:"activeEndpoints"`
	InFlight  int64  `json:"inFlight"`
	Waiting   int    `json:"waiting"`
}

// limitLine is a counter that is nearly used up.
type limitLine struct {
	Name         string  `json:"name"`
	Subject      string  `json:"subject"`
	Unit         string  `json:"unit"`
	Limit        int64   `json:"limit"`
	Remaining    int64   `json:"remaining"`
	ResetSeconds float64 `json:"resetSeconds"`
}

func statusCommand() *cobra.Command {
	var admin adminClient
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how a running gateway is",
		Long: `Show how a running gateway is: its version and configuration, what it depends on, its backends, and limits near their end.

The exit code is 0 while requests are served, and 1 otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: use text or json", output)
			}
			if err := admin.open(); err != nil {
				return err
			}
			s, err := fetchStatus(c.Context(), &admin, time.Now())
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(c.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(s)
			} else {
				err = s.print(c.OutOrStdout())
			}
			if err == nil && !s.Ready {
				return quietError{}
			}
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	admin.bind(c.Flags())
	return c
}

// fetchStatus asks a running gateway for everything.
func fetchStatus(ctx context.Context, admin *adminClient, now time.Time) (*gatewayStatus, error) {
	s := &gatewayStatus{Backends: []backendLine{}, Breakers: []api.Breaker{}, Limits: []limitLine{}, Trouble: []api.Dependency{}}
	reason, err := admin.ready(ctx)
	if err != nil {
		return nil, err
	}
	s.Reason, s.Ready = reason, reason == ""
	var topology api.Topology
	var breakers api.Breakers
	var limits api.Limits
	var history api.History
	for path, out := range map[string]any{
		"/api/status": &s.Status, "/api/topology": &topology, "/api/breakers": &breakers, "/api/limits": &limits, "/api/history?minutes=5": &history,
	} {
		if err := admin.get(ctx, path, out); err != nil {
			return nil, err
		}
	}
	s.Totals, s.UptimeSeconds = topology.Totals, max(0, now.Sub(history.Since).Seconds())
	for i := range topology.Backends {
		s.Backends = append(s.Backends, backendOf(&topology.Backends[i]))
	}
	for _, b := range breakers.Breakers {
		if b.State != "Closed" {
			s.Breakers = append(s.Breakers, b)
		}
	}
	for i := range limits.Limits {
		s.Limits = append(s.Limits, nearTheirEnd(&limits.Limits[i])...)
	}
	slices.SortStableFunc(s.Limits, func(a, b limitLine) int { return cmp.Compare(a.left(), b.left()) })
	for _, d := range history.Dependencies {
		if d.State != "ok" && d.State != "idle" && d.Kind != "endpoint" && d.Kind != "backend" {
			s.Trouble = append(s.Trouble, d)
		}
	}
	return s, nil
}

func backendOf(b *api.Backend) backendLine {
	out := backendLine{ID: b.ID, Health: b.Health, Why: b.Why, Endpoints: len(b.Endpoints), InFlight: b.InFlight, Waiting: b.Waiting}
	for i := range b.Endpoints {
		if s := b.Endpoints[i].Status; s != "Isolated" && s != "down" {
			out.Active++
		}
	}
	return out
}

func nearTheirEnd(l *api.Limit) (out []limitLine) {
	for _, s := range l.Subjects {
		line := limitLine{Name: l.Name, Subject: s.Subject, Unit: l.Unit, Limit: s.Limit, Remaining: s.Remaining, ResetSeconds: s.ResetSeconds}
		if s.Limit > 0 && line.left() <= 1-nearEnd {
			out = append(out, line)
		}
	}
	return out
}

// left is the part of the limit that is left.
func (l *limitLine) left() float64 { return float64(l.Remaining) / float64(max(l.Limit, 1)) }

// moneyUnit is the Unit of limits that count nano-units of money.
const moneyUnit = "money"

func (s *gatewayStatus) print(w io.Writer) error {
	var text strings.Builder
	s.printLines(&text)
	s.printTables(&text)
	_, err := io.WriteString(w, cleanText(text.String()))
	return err
}

func (s *gatewayStatus) printLines(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	state := "serving"
	if !s.Ready {
		state = "NOT READY: " + s.Reason
	}
	line("Gateway", "%s", state)
	line("Version", "%s, up %s", s.Status.Version, secondsText(s.UptimeSeconds))
	c := &s.Status.Configuration
	if c.Serving != "" {
		line("Configuration", "%s, live since %s", c.Serving, c.Since.UTC().Format(time.DateTime+" UTC"))
	} else {
		line("Configuration", "none is live")
	}
	if c.Pending != "" {
		line("", "%s is on its way to Envoy", c.Pending)
	}
	if c.Rejected != "" {
		line("", "%s was refused by Envoy: %s", c.Rejected, c.Reason)
	}
	switch o := &s.Status.Origin; {
	case o.Name == "": // the gateway is of a version that does not say
	case o.Connected:
		line("Source", "%s", o.Name)
	default:
		line("Source", "%s, NOT CONNECTED since %s: %s", o.Name, o.Since.UTC().Format(time.DateTime+" UTC"), o.Reason)
	}
	var objects []string
	for _, k := range slices.Sorted(maps.Keys(s.Status.Objects)) {
		if n := s.Status.Objects[k]; n > 0 {
			objects = append(objects, fmt.Sprintf("%d %s", n, k))
		}
	}
	line("Objects", "%s", orNone(strings.Join(objects, ", ")))
	for _, p := range s.Status.Problems {
		line("Problem", "%s", p)
	}
	line("Envoy", "%s", map[bool]string{true: "connected", false: "NOT CONNECTED"}[c.EnvoyConnected])
	s.printShared(line)
	l := &s.Status.Ledger
	line("Ledger", "%s, %d requests open%s", l.Folder, l.Open, trouble(l.Error))
	for _, k := range s.Status.KeySets {
		line("Signing keys", "%s%s", k.URL, trouble(k.Err))
	}
	r := &s.Totals
	line("Traffic", "%s requests/s, %s errors/s, %s tokens/s, %d in flight", short(r.Requests), short(r.Errors), short(r.Tokens), r.InFlight)
	for i := range s.Trouble {
		d := &s.Trouble[i]
		name := d.Kind
		if d.Name != "" && d.Name != d.Kind {
			name += " " + d.Name
		}
		line("Trouble", "%s is %s: %s", name, d.State, d.Why)
	}
	_ = t.Flush() // a strings.Builder takes everything
}

func (s *gatewayStatus) printShared(line func(name, format string, args ...any)) {
	r := s.Status.SharedState
	if r == nil {
		line("Shared state", "none: each replica counts for itself")
		return
	}
	text := fmt.Sprintf("%d replicas", r.Replicas)
	if r.Restoring {
		text += ", lost counters are being put together again"
	}
	line("Shared state", "%s%s%s%s", text, trouble(r.Error), trouble(r.Problem), trouble(r.Shipping))
}

// trouble is an error behind a line.
func trouble(err string) string {
	if err == "" {
		return ""
	}
	return "; TROUBLE: " + err
}

func orNone(s string) string { return cmp.Or(s, "none") }

func (s *gatewayStatus) printTables(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nBACKEND\tHEALTH\tENDPOINTS\tIN FLIGHT\tWAITING\tWHY")
	for _, b := range s.Backends {
		fmt.Fprintf(t, "%s\t%s\t%d of %d\t%d\t%d\t%s\n", b.ID, b.Health, b.Active, b.Endpoints, b.InFlight, b.Waiting, b.Why)
	}
	if len(s.Breakers) > 0 {
		fmt.Fprintln(t, "\nCIRCUIT BREAKER\tWHOSE\tSTATE\tFAILED\tTRY AGAIN IN")
	}
	for _, b := range s.Breakers {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d of %d\t%s\n", b.Policy, whose(b.Subject), b.State, b.Failures, b.Requests, secondsText(b.RetryAfterSeconds))
	}
	if len(s.Limits) > 0 {
		fmt.Fprintln(t, "\nLIMIT NEAR ITS END\tWHOSE\tLEFT\tOF\tWHOLE IN")
	}
	for i := range s.Limits {
		l := &s.Limits[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", l.Name, whose(l.Subject), l.amount(l.Remaining), l.amount(l.Limit)+" "+s.unit(l), secondsText(l.ResetSeconds))
	}
	_ = t.Flush()
}

// unit is what the limit counts; of money the currency.
func (s *gatewayStatus) unit(l *limitLine) string {
	if l.Unit == moneyUnit {
		return cmp.Or(s.Totals.Currency, l.Unit)
	}
	return l.Unit
}

// amount is a number of the limit's units. Money comes in nano-units.
func (l *limitLine) amount(n int64) string {
	if l.Unit == moneyUnit {
		return strconv.FormatFloat(float64(n)/1e9, 'f', 2, 64)
	}
	return strconv.FormatInt(n, 10)
}

// short is a number in as few digits as say enough: "0", "0.3", "12", "3.4k", "1.2M".
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 9.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v < 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v < 999_950:
		return strconv.FormatFloat(v/1e3, 'f', 1, 64) + "k"
	}
	return strconv.FormatFloat(v/1e6, 'f', 1, 64) + "M"
}
