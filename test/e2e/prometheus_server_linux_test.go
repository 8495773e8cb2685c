package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/freeport"
)

// promServer is a real Prometheus that scrapes one gateway each second.
type promServer struct {
	t       *testing.T
	url     string
	started time.Time
}

func startPrometheus(t *testing.T, target, rules string) *promServer {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("this test needs prometheus on the PATH: install it, for example with apt-get install prometheus")
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - {job_name: weir, scrape_timeout: 1s, static_configs: [{targets: [%q]}]}
`, target)
	for name, text := range map[string]string{"prometheus.yaml": config, "rules.yaml": rules} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	addr := freeport.Addr(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	cmd := exec.Command(bin, "--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	begun, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The signal comes when the thread that started the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	must(t, <-begun)
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	p := &promServer{t: t, url: "http://" + addr, started: time.Now()}
	harness.WaitFor(t, "Prometheus is ready", func() bool {
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("Prometheus has ended: %s", text)
		default:
		}
		resp, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// get reads what an address of the API answers. An error of it is returned.
func (p *promServer) get(path string, q url.Values, into any) error {
	p.t.Helper()
	resp, err := http.Get(p.url + path + "?" + q.Encode())
	must(p.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(p.t, err)
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		p.t.Fatalf("%s: %v: %s", path, err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// series is what a query gives: of an instant, or of a time.
type series struct {
	Metric map[string]string
	Value  [2]any
	Values [][2]any
}

// finite says whether a value is a number that is one.
func finite(v [2]any) bool {
	text, _ := v[1].(string)
	f, err := strconv.ParseFloat(text, 64)
	return err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
}

// query evaluates now. It gives the series that have a value.
func (p *promServer) query(expr string) (out []series, err error) {
	p.t.Helper()
	var data struct{ Result []series }
	err = p.get("/api/v1/query", url.Values{"query": {expr}}, &data)
	for _, s := range data.Result {
		if finite(s.Value) {
			out = append(out, s)
		}
	}
	return out, err
}

// over evaluates for each second since Prometheus began. It gives the series that have a value.
func (p *promServer) over(expr string) (out []series, err error) {
	p.t.Helper()
	var data struct{ Result []series }
	unix := func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
	err = p.get("/api/v1/query_range", url.Values{"query": {expr}, "start": {unix(p.started)}, "end": {unix(time.Now().Add(time.Second))}, "step": {"1"}}, &data)
	for _, s := range data.Result {
		for _, v := range s.Values {
			if finite(v) {
				out = append(out, s)
				break
			}
		}
	}
	return out, err
}

// scrapes is how many times the gateway has been scraped.
func (p *promServer) scrapes() int {
	p.t.Helper()
	s, err := p.query(`count_over_time(up{job="weir"}[10m])`)
	must(p.t, err)
	if len(s) == 0 {
		return 0
	}
	n, err := strconv.Atoi(s[0].Value[1].(string))
	must(p.t, err)
	return n
}

// badText is what a template that went wrong leaves behind.
var badText = regexp.MustCompile(`<no value>|error expanding|%!`)

// firing are the alerts that fire now.
func (p *promServer) firing() map[string]bool {
	p.t.Helper()
	var data struct {
		Alerts []struct {
			State       string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
	must(p.t, p.get("/api/v1/alerts", nil, &data))
	out := map[string]bool{}
	for _, a := range data.Alerts {
		if a.State == "firing" {
			out[a.Labels["alertname"]] = true
			for key, text := range a.Annotations {
				if text == "" || len(text) > 400 || badText.MatchString(text) {
					p.t.Errorf("%s: the %s reads %q", a.Labels["alertname"], key, text)
				}
			}
		}
	}
	return out
}

// ruleErrors are what is wrong with rules as they are evaluated.
func (p *promServer) ruleErrors() (out []string) {
	p.t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	must(p.t, p.get("/api/v1/rules", nil, &data))
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				out = append(out, fmt.Sprintf("%s is %s: %s", r.Name, r.Health, r.LastError))
			}
		}
	}
	return out
}
