package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

const (
	alertsFile     = "../../deploy/prometheus/weir-alerts.yaml"
	dashboardsGlob = "../../deploy/grafana/*.json"
	metricsPage    = "../../docs/metrics.md"
)

// alertRules is a file of rules.
type alertRules struct {
	Groups []struct {
		Name  string      `yaml:"name"`
		Rules []alertRule `yaml:"rules"`
	} `yaml:"groups"`
}

type alertRule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func readAlerts(t *testing.T) (rules alertRules, names []string) {
	t.Helper()
	text, err := os.ReadFile(alertsFile)
	must(t, err)
	must(t, yaml.Unmarshal(text, &rules))
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			names = append(names, r.Alert)
		}
	}
	if len(names) < 20 {
		t.Fatalf("only %d alerts were read: %q", len(names), names)
	}
	return rules, names
}

// TestAlertsSayWhatToDo: each has a summary, a description, a severity and a section of the manual.
func TestAlertsSayWhatToDo(t *testing.T) {
	t.Parallel()
	rules, _ := readAlerts(t)
	page, err := os.ReadFile(metricsPage)
	must(t, err)
	seen := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] {
				t.Errorf("there are two alerts %s", r.Alert)
			}
			seen[r.Alert] = true
			for _, key := range []string{"summary", "description", "runbook_url"} {
				if r.Annotations[key] == "" {
					t.Errorf("%s has no %s", r.Alert, key)
				}
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/metrics.md#"+strings.ToLower(r.Alert)) {
				t.Errorf("%s: the manual is at %s", r.Alert, r.Annotations["runbook_url"])
			}
			if !strings.Contains(string(page), "\n### "+r.Alert+"\n") {
				t.Errorf("docs/metrics.md has no section %s", r.Alert)
			}
		}
	}
}

// quicker are the alerts for a Prometheus that scrapes each second: what takes minutes takes seconds.
func quicker(t *testing.T, rules alertRules) string {
	t.Helper()
	scaled := func(text string, least, most time.Duration) string {
		d, err := model.ParseDuration(text)
		must(t, err)
		return model.Duration(min(max((time.Duration(d)/45).Round(time.Second), least), most)).String()
	}
	ranges := regexp.MustCompile(`\[\d+[smhd]\]`)
	for g := range rules.Groups {
		for r := range rules.Groups[g].Rules {
			rule := &rules.Groups[g].Rules[r]
			rule.Expr = ranges.ReplaceAllStringFunc(rule.Expr, func(m string) string {
				return "[" + scaled(strings.Trim(m, "[]"), 8*time.Second, 20*time.Second) + "]"
			})
			if rule.For != "" {
				rule.For = scaled(rule.For, time.Second, 3*time.Second)
			}
		}
	}
	text, err := yaml.Marshal(rules)
	must(t, err)
	return string(text)
}

// panelQuery is one query of a panel of a dashboard.
type panelQuery struct {
	Where   string // dashboard, panel and reference
	Expr    string
	Instant bool
}

type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Panels        []struct {
		Type, Title string
		Datasource  struct{ UID string }
		Targets     []struct {
			RefID, Expr string
			Instant     bool
			Datasource  struct{ UID string }
		}
		GridPos struct{ H, W, X, Y int }
	}
	Annotations struct {
		List []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name, Type string
			Definition string
		}
	}
}

func readDashboards(t *testing.T) (all []dashboard) {
	t.Helper()
	paths, err := filepath.Glob(dashboardsGlob)
	must(t, err)
	if len(paths) < 5 {
		t.Fatalf("only %d dashboards: %q", len(paths), paths)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(t, err)
		var d dashboard
		must(t, json.Unmarshal(text, &d))
		if d.UID+".json" != filepath.Base(path) || d.Title == "" || d.SchemaVersion < 38 {
			t.Errorf("%s: uid %q, title %q, schema %d", path, d.UID, d.Title, d.SchemaVersion)
		}
		all = append(all, d)
	}
	return all
}

// queries are those of all panels and notes, for a run that took so long.
func queries(t *testing.T, took time.Duration) (panels []panelQuery, notes []panelQuery) {
	t.Helper()
	for _, d := range readDashboards(t) {
		pairs := []string{"$__rate_interval", "8s", "$__interval", "2s", "$__range", fmt.Sprintf("%ds", int(took.Seconds())+1)}
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				pairs = append(pairs, "$"+v.Name, ".*")
			}
		}
		fill := strings.NewReplacer(pairs...)
		taken := map[[2]int]string{}
		for _, p := range d.Panels {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %q lies on %q", d.Title, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if len(p.Targets) == 0 {
				t.Errorf("%s: %q has no query", d.Title, p.Title)
			}
			for _, q := range p.Targets {
				expr := fill.Replace(q.Expr)
				if strings.Contains(strings.ReplaceAll(expr, `"$1"`, ""), "$") && !strings.Contains(expr, "${1}") {
					t.Errorf("%s: %q uses a variable that nobody knows: %s", d.Title, p.Title, q.Expr)
				}
				if q.Datasource.UID != "${datasource}" || p.Datasource.UID != "${datasource}" {
					t.Errorf("%s: %q does not use the variable for its data source", d.Title, p.Title)
				}
				panels = append(panels, panelQuery{fmt.Sprintf("%s: %s (%s)", d.Title, p.Title, q.RefID), expr, q.Instant})
			}
		}
		for _, n := range d.Annotations.List {
			notes = append(notes, panelQuery{d.Title + ": notes", fill.Replace(n.Expr), false})
		}
	}
	return panels, notes
}
