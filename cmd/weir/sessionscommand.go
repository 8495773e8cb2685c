package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc/session"
)

func sessionsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sessions",
		Short: "Show, change, export and erase conversations that a running gateway keeps",
		Long: `Show, change, export and erase conversations that a running gateway keeps, on its admin address. What is kept is said by SessionPolicies.

A session is named by its ID, its tenant and, unless its policy has scope: Tenant, its consumer (namespace/name). Nothing but export shows
what was said.`,
	}
	c.AddCommand(sessionsListCommand(), sessionsShowCommand(), sessionsExportCommand(), sessionsDeleteCommand(), sessionsSetStateCommand())
	return c
}

// whoseSessions are the flags that say whose sessions are meant.
type whoseSessions struct{ tenant, consumer string }

func (o *whoseSessions) bind(c *cobra.Command) {
	c.Flags().StringVar(&o.tenant, "tenant", "", "tenant of the session")
	c.Flags().StringVar(&o.consumer, "consumer", "", "consumer of the session, namespace/name; left out where its policy has scope: Tenant")
}

// query names them. One session has a tenant; several may be anybody's.
func (o *whoseSessions) query(one bool) (url.Values, error) {
	q := url.Values{}
	if o.tenant == "" && (one || o.consumer != "") {
		return q, errors.New("--tenant is missing: say whose session it is (weir sessions list shows all)")
	}
	if o.tenant != "" {
		q.Set("tenant", o.tenant)
	}
	if o.consumer != "" {
		if !strings.Contains(o.consumer, "/") {
			return q, fmt.Errorf("--consumer %q: give namespace/name, as in default/%s", o.consumer, o.consumer)
		}
		q.Set("consumer", o.consumer)
	}
	return q, nil
}

// path of a session, or of what is below it.
func (o *whoseSessions) path(id, below string) (string, error) {
	q, err := o.query(true)
	if err != nil {
		return "", err
	}
	return "/api/sessions/" + url.PathEscape(id) + below + "?" + q.Encode(), nil
}

// sessionList is the answer of GET /api/sessions, and of weir sessions list -o json all of its pages.
type sessionList struct {
	Sessions []session.Line `json:"sessions"`
	Next     string         `json:"next,omitempty"`
}

// sessionPage is how many sessions are asked for at once.
const sessionPage = 500

func sessionsListCommand() *cobra.Command {
	var admin adminClient
	var output string
	var whose whoseSessions
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List sessions, without anything that was said",
		Example: `  weir sessions list
  weir sessions list --tenant acme --consumer default/ana -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit must be 1 or more")
			}
			q, err := whose.query(false)
			if err != nil {
				return err
			}
			if err := admin.start(output); err != nil {
				return err
			}
			list, err := listSessions(c.Context(), &admin, q, limit)
			if err != nil {
				return err
			}
			if output == outputJSON {
				return writeJSON(c.OutOrStdout(), list)
			}
			return printSessions(c.OutOrStdout(), list, time.Now())
		},
	}
	whose.bind(c)
	c.Flags().IntVar(&limit, "limit", 1000, "how many sessions to list at most")
	admin.bindOutput(c, &output)
	return c
}

// listSessions asks for pages until there are enough. Next is not empty where there are more.
func listSessions(ctx context.Context, admin *adminClient, q url.Values, limit int) (*sessionList, error) {
	all := &sessionList{Sessions: []session.Line{}}
	for {
		q.Set("limit", strconv.Itoa(min(sessionPage, limit-len(all.Sessions))))
		var page sessionList
		if err := admin.get(ctx, "/api/sessions?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		all.Sessions, all.Next = append(all.Sessions, page.Sessions...), page.Next
		if page.Next == "" || len(all.Sessions) >= limit {
			return all, nil
		}
		q.Set("cursor", page.Next)
	}
}

func printSessions(w io.Writer, list *sessionList, now time.Time) error {
	var text strings.Builder
	if len(list.Sessions) == 0 {
		text.WriteString("No sessions.\n")
	} else {
		t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SESSION\tTENANT\tCONSUMER\tPOLICY\tSTORE\tTURNS\tTOKENS\tSTATE\tINTENT\tUSED\tEXPIRES IN")
		for i := range list.Sessions {
			l := &list.Sessions[i]
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s ago\t%s\n", l.ID, l.Tenant, dash(l.Consumer), l.Policy, l.Store, l.Turns, short(float64(l.Tokens)),
				dash(l.State), dash(l.Intent), secondsText(now.Sub(l.Used).Seconds()), secondsText(l.Expires.Sub(now).Seconds()))
		}
		_ = t.Flush() // a strings.Builder takes everything
	}
	if list.Next != "" {
		fmt.Fprintf(&text, "\nThere are more; --limit says how many to list.\n")
	}
	_, err := io.WriteString(w, cleanText(text.String()))
	return err
}

// dash stands where there is nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func sessionsShowCommand() *cobra.Command {
	var admin adminClient
	var output string
	var whose whoseSessions
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a session: its state, intent, slots and events; not what was said",
		Example: `  weir sessions show trip-1 --tenant acme --consumer default/ana`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := whose.path(args[0], "")
			if err != nil {
				return err
			}
			if err := admin.start(output); err != nil {
				return err
			}
			var s session.View
			if err := admin.get(c.Context(), path, &s); err != nil {
				return err
			}
			return writeSession(c.OutOrStdout(), output, &s, time.Now())
		},
	}
	whose.bind(c)
	admin.bindOutput(c, &output)
	return c
}

func writeSession(w io.Writer, output string, s *session.View, now time.Time) error {
	if output == outputJSON {
		return writeJSON(w, s)
	}
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("Session", "%s", s.ID)
	line("Tenant", "%s", s.Tenant)
	line("Consumer", "%s", dash(s.Consumer))
	line("Policy", "%s", s.Policy)
	line("Revision", "%d", s.Revision)
	line("Created", "%s", s.Created.UTC().Format(time.DateTime+" UTC"))
	line("Used", "%s ago", secondsText(now.Sub(s.Used).Seconds()))
	line("Expires", "in %s", secondsText(s.Expires.Sub(now).Seconds()))
	turns := fmt.Sprintf("%d, about %s tokens", s.Turns, short(float64(s.Tokens)))
	if s.Forgotten > 0 {
		turns += fmt.Sprintf("; %d are not kept any more", s.Forgotten)
	}
	line("Turns", "%s", turns)
	if s.State != "" {
		since := ""
		if s.Entered != nil {
			since = ", for " + secondsText(now.Sub(*s.Entered).Seconds())
		}
		line("State", "%s%s", s.State, since)
	}
	if s.Intent != "" {
		line("Intent", "%s", s.Intent)
	}
	_ = t.Flush() // a strings.Builder takes everything
	if len(s.Slots) > 0 {
		fmt.Fprintln(t, "\nSLOT\tVALUE\tFROM")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Slots)) {
		var value bytes.Buffer
		if json.Compact(&value, s.Slots[name].Value) != nil {
			value.Write(s.Slots[name].Value)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", name, value.Bytes(), s.Slots[name].Source)
	}
	if len(s.Entities) > 0 {
		fmt.Fprintln(t, "\nENTITY\tVALUES")
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Entities)) {
		fmt.Fprintf(t, "%s\t%s\n", kind, strings.Join(s.Entities[kind], ", "))
	}
	if len(s.Events) > 0 {
		fmt.Fprintln(t, "\nEVENT\tFROM\tTO\tAT")
	}
	for _, e := range s.Events {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.Name, dash(e.From), dash(e.To), e.At.UTC().Format(time.DateTime+" UTC"))
	}
	_ = t.Flush()
	_, err := io.WriteString(w, cleanText(text.String()))
	return err
}

func sessionsExportCommand() *cobra.Command {
	var admin adminClient
	var whose whoseSessions
	c := &cobra.Command{
		Use:   "export [ID]",
		Short: "Print everything that is kept of a session, or of all of a tenant or consumer, with what was said",
		Long: `Print everything that is kept, as JSON, with what was said: of one session one document, of all sessions of a tenant or a consumer
one document a line.`,
		Example: `  weir sessions export trip-1 --tenant acme --consumer default/ana
  weir sessions export --tenant acme --consumer default/ana >ana.jsonl`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := whose.query(true)
			if err != nil {
				return err
			}
			if err := admin.open(); err != nil {
				return err
			}
			path := "/api/session-export?" + q.Encode()
			if len(args) == 1 {
				if path, err = whose.path(args[0], "/export"); err != nil {
					return err
				}
			}
			admin.patience = longAdminTimeout
			return admin.stream(c.Context(), path, len(args) == 1, c.OutOrStdout())
		},
	}
	whose.bind(c)
	admin.bind(c.Flags())
	return c
}

// stream copies the answer of a path to w, with an end of line where it has none.
func (a *adminClient) stream(ctx context.Context, path string, line bool, w io.Writer) error {
	resp, err := a.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := a.refusal(resp, path); err != nil {
		return err
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("the export broke off, what was printed is not all of it: %w", err)
	}
	if line {
		_, err = io.WriteString(w, "\n")
	}
	return err
}

func sessionsDeleteCommand() *cobra.Command {
	var admin adminClient
	var output string
	var whose whoseSessions
	var all bool
	c := &cobra.Command{
		Use:   "delete [ID]",
		Short: "Erase a session, or with --all all of a tenant or consumer",
		Long: `Erase a session, or with --all all sessions of a tenant, or of a consumer of it. What was erased stays erased: a request that is under way
does not bring its session back.`,
		Example: `  weir sessions delete trip-1 --tenant acme --consumer default/ana
  weir sessions delete --all --tenant acme --consumer default/ana`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("give either the ID of a session, or --all for all sessions of --tenant and --consumer")
			}
			q, err := whose.query(true)
			if err != nil {
				return err
			}
			path := "/api/sessions?" + q.Encode()
			if !all {
				if path, err = whose.path(args[0], ""); err != nil {
					return err
				}
			}
			if err := admin.start(output); err != nil {
				return err
			}
			admin.patience = longAdminTimeout
			var done struct {
				Erased int `json:"erased"`
			}
			if err := admin.delete(c.Context(), path, &done); err != nil {
				return err
			}
			if output == outputJSON {
				return writeJSON(c.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s erased\n", plural(done.Erased, "session"))
			return err
		},
	}
	whose.bind(c)
	c.Flags().BoolVar(&all, "all", false, "all sessions of --tenant, and of --consumer where it is given")
	admin.bindOutput(c, &output)
	return c
}

func sessionsSetStateCommand() *cobra.Command {
	var admin adminClient
	var output string
	var whose whoseSessions
	c := &cobra.Command{
		Use:     "set-state ID STATE",
		Short:   "Put a session into a state of its policy's state machine",
		Example: `  weir sessions set-state trip-1 idle --tenant acme --consumer default/ana`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := whose.path(args[0], "/state")
			if err != nil {
				return err
			}
			if err := admin.start(output); err != nil {
				return err
			}
			body, err := json.Marshal(map[string]string{"state": args[1]})
			if err != nil {
				return err
			}
			var s session.View
			if err := admin.do(c.Context(), http.MethodPut, path, body, &s); err != nil {
				return err
			}
			return writeSession(c.OutOrStdout(), output, &s, time.Now())
		},
	}
	whose.bind(c)
	admin.bindOutput(c, &output)
	return c
}
