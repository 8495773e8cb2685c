package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func records(t *testing.T, url string) []Record {
	t.Helper()
	got := do(t, "GET", url, "")
	var out []Record
	if err := json.Unmarshal([]byte(got.body), &out); err != nil {
		t.Fatalf("%v: %s", err, got.body)
	}
	return out
}

func TestRecords(t *testing.T) {
	s, url := newSim(t, Options{Dialect: OpenAI})
	const mine = "caller-key-1234567890"
	do(t, "POST", url+chatPath+"?key="+mine+"&a=b", `{"model":"gpt-4o","user":"x","user":"y","messages":[{"role":"user","content":"hi"}]}`,
		"Authorization: Bearer "+mine, "X-Weir-Secret: "+mine, "X-Other: plain")
	do(t, "POST", url+chatPath, askOpenAI, "Authorization: Bearer provider-key")
	big := `{"model":"gpt-4o","messages":[{"role":"user","content":"` + strings.Repeat("y", 70<<10) + `"}]}`
	do(t, "POST", url+chatPath, big, bearer)

	raw := do(t, "GET", url+"/_sim/requests", "")
	if strings.Contains(raw.body, mine) || strings.Contains(raw.body, "provider-key") {
		t.Errorf("a credential is in the record: %s", raw.body)
	}
	list := records(t, url+"/_sim/requests")
	if len(list) != 3 || list[0].ID != 1 || list[2].ID != 3 {
		t.Fatalf("records: %+v", list)
	}
	r := list[0]
	if len(r.Credentials) != 1 || r.Credentials[0] != Fingerprint(mine) || r.Header.Get("Authorization") != "Bearer "+Fingerprint(mine) {
		t.Errorf("credentials: %v, %v", r.Credentials, r.Header)
	}
	if r.Header.Get("X-Other") != "plain" || !strings.Contains(r.Query, "a=b") || r.Method != "POST" || r.Path != chatPath || r.Status != 200 {
		t.Errorf("record: %+v", r)
	}
	if r.End != Finished || r.Tokens < 10 || r.Usage.Output != r.Tokens || r.Summary.Model != "gpt-4o" {
		t.Errorf("record: %+v", r)
	}
	if len(r.Summary.RepeatedKeys) != 1 || r.Summary.RepeatedKeys[0] != "user" || !strings.Contains(r.Body, `"user":"y"`) {
		t.Errorf("repeated keys: %v, body %s", r.Summary.RepeatedKeys, r.Body)
	}
	if list[2].Body != "" || list[2].BodySize != len(big) {
		t.Errorf("a large body is listed: %d", len(list[2].Body))
	}
	if all := records(t, url+"/_sim/requests?body=all&limit=1"); len(all) != 1 || all[0].Body != big {
		t.Error("body=all does not show a large body")
	}
	if got := do(t, "GET", url+"/_sim/requests/3/body", ""); got.body != big {
		t.Error("a large body cannot be fetched")
	}
	if got := do(t, "GET", url+"/_sim/requests/3", ""); got.status != 200 || !strings.Contains(got.body, `"id": 3`) {
		t.Errorf("one record: %d", got.status)
	}
	if got := records(t, url+"/_sim/requests?credential="+Fingerprint("provider-key")); len(got) != 1 || got[0].ID != 2 {
		t.Errorf("by credential: %+v", got)
	}
	for _, bad := range []string{"/_sim/requests/99", "/_sim/requests/x/body", "/_sim/nothing"} {
		if got := do(t, "GET", url+bad, ""); got.status != 404 {
			t.Errorf("%s: %d", bad, got.status)
		}
	}
	if got := do(t, "GET", url+"/_sim/requests?limit=x", ""); got.status != 400 {
		t.Errorf("limit: %d", got.status)
	}

	var st Stats
	if err := json.Unmarshal([]byte(do(t, "GET", url+"/_sim/stats", "").body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Requests != 3 || st.Models["gpt-4o"].Requests != 3 || st.Credentials[Fingerprint(mine)].Output != r.Tokens || st.Statuses[200] != 3 {
		t.Errorf("stats: %+v", st)
	}
	if got := do(t, "DELETE", url+"/_sim/requests", ""); got.status != 204 || len(s.Requests()) != 0 || s.Stats().Requests != 0 {
		t.Errorf("delete: %d", got.status)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	j := &journal{}
	for range maxRecords + 50 {
		id := j.begin(Record{})
		j.update(id, func(r *Record) { r.Body = strings.Repeat("x", 1<<20) })
	}
	list := j.recent(0)
	kept := 0
	for _, r := range list {
		kept += len(r.Body)
	}
	if len(list) != maxRecords || kept > bodyBudget || kept < bodyBudget-1<<20 || j.bytes != kept {
		t.Errorf("%d records with %d bytes (counted %d)", len(list), kept, j.bytes)
	}
	if list[0].ID != 51 || list[len(list)-1].Body == "" {
		t.Error("the oldest are not the first to go")
	}
	j.update(3, func(*Record) { t.Error("a forgotten record is changed") })

	c := newCounter()
	for i := range maxNames + 20 {
		c.begin()
		c.end(&Record{Status: 200, End: Finished, Summary: Summary{Model: "m"}, Credentials: []string{fmt.Sprint(i)}})
	}
	if st := c.get(); len(st.Credentials) != maxNames+1 || st.Credentials["other"].Requests != 20 {
		t.Errorf("%d credentials", len(st.Credentials))
	}
}

func TestPutFaults(t *testing.T) {
	s, url := newSim(t, Options{Dialect: OpenAI})
	const faults = `{"ttft":"0s","interval_min":"1ms","interval_max":"2ms","chunking":"split","rules":[{"kind":"status","status":429,"next":2,"retry_after":"3s"}]}`
	if got := do(t, "PUT", url+"/_sim/faults", faults); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if f := s.Faults(); f.TTFT != None || f.Chunking != Split || len(f.Rules) != 1 {
		t.Errorf("faults: %+v", f)
	}
	got := do(t, "POST", url+chatPath, askOpenAI, bearer)
	if got.status != 429 || got.header.Get("Retry-After") != "3" {
		t.Errorf("%d, %q", got.status, got.header.Get("Retry-After"))
	}
	now := do(t, "GET", url+"/_sim/faults", "")
	if dig(t, now.body, "rules", 0, "next") != 1.0 || dig(t, now.body, "ttft") != "0s" {
		t.Errorf("what is left: %s", now.body)
	}
	if again := do(t, "PUT", url+"/_sim/faults", now.body); again.status != 200 || again.body != now.body {
		t.Errorf("what GET says cannot be PUT: %s", again.body)
	}
	for _, bad := range []string{`{`, `{"speed":1}`, `{"ttft":5}`, `{"ttft":"soon"}`, `{"ttft":"-1s"}`, `{"rules":[{"kind":"x"}]}`, `{"rules":[{"kind":"ok_error"}]}`} {
		if got := do(t, "PUT", url+"/_sim/faults", bad); got.status != 400 || dig(t, got.body, "error") == nil {
			t.Errorf("%s: %d %s", bad, got.status, got.body)
		}
	}
	if f := s.Faults(); f.Chunking != Split {
		t.Error("refused faults changed something")
	}
}

func TestLargeBody(t *testing.T) {
	for _, f := range faces() {
		s, url := newSim(t, Options{Dialect: f.dialect, MaxBody: 10})
		got := do(t, "POST", url+f.path, f.plain, f.plainHeaders()...)
		if got.status != 413 || got.body == "" {
			t.Errorf("%s: %d %s", f.dialect, got.status, got.body)
		}
		if r := s.Requests()[0]; r.End != Refused {
			t.Errorf("%s: %s", f.dialect, r.End)
		}
	}
}

// TestBodyFraming holds that chunked and counted bodies are the same, and that a broken one is noted.
func TestBodyFraming(t *testing.T) {
	s, url := newSim(t, Options{Dialect: OpenAI})
	addr := strings.TrimPrefix(url, "http://")
	send := func(raw string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		for {
			if _, err := c.Read(buf); err != nil {
				break
			}
		}
		c.Close()
	}
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\n"
	half := len(askOpenAI) / 2
	send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(askOpenAI), askOpenAI))
	send(head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", half, askOpenAI[:half], len(askOpenAI)-half, askOpenAI[half:]))
	send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(askOpenAI), askOpenAI[:half]))
	waitFor(t, func() bool { return len(s.Requests()) == 3 && s.Stats().Running == 0 })
	list := s.Requests()
	if list[0].BodySize != len(askOpenAI) || list[0].Body != list[1].Body {
		t.Errorf("chunked: %q, counted: %q", list[1].Body, list[0].Body)
	}
	if list[2].End != Aborted || list[2].Status != 0 {
		t.Errorf("a broken body: %s, status %d", list[2].End, list[2].Status)
	}
}

func TestListen(t *testing.T) {
	s, err := New(Options{Dialect: OpenAI, Sleep: noSleep})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"0.0.0.0:0", "192.0.2.1:0", "example.com:80", "[::]:0", "nonsense"} {
		if err := s.ListenAndServe(t.Context(), bad, nil); err == nil || !strings.Contains(err.Error(), "sim:") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	bound := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe(ctx, ":0", func(a net.Addr) { bound <- a }) }()
	addr := (<-bound).String()
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Errorf("bound to %s", addr)
	}
	if err := s.ListenAndServe(t.Context(), addr, nil); err == nil {
		t.Error("a taken port is no error")
	}

	h1, h2 := new(http.Protocols), new(http.Protocols)
	h1.SetHTTP1(true)
	h2.SetUnencryptedHTTP2(true)
	for proto, p := range map[string]*http.Protocols{"HTTP/1.1": h1, "HTTP/2.0": h2} {
		tr := &http.Transport{Protocols: p}
		client := &http.Client{Transport: tr}
		req, _ := http.NewRequest("POST", "http://"+addr+chatPath, strings.NewReader(streamOpenAI))
		req.Header.Set("Authorization", "Bearer k")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", proto, err)
		}
		if _, err := fmt.Fscan(resp.Body, new(string)); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		if resp.Proto != proto {
			t.Errorf("protocol %s, want %s", resp.Proto, proto)
		}
		tr.CloseIdleConnections()
	}
	waitFor(t, func() bool { return s.Stats().Running == 0 })
	if list := s.Requests(); len(list) != 2 || list[0].Protocol == list[1].Protocol {
		t.Errorf("records: %+v", list)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the end of the context is no error: %v", err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the port is still open")
	}
}

// TestHTTP2Reset holds that a fault resets the stream on HTTP/2, and not the connection.
func TestHTTP2Reset(t *testing.T) {
	s, err := New(Options{Dialect: OpenAI, Sleep: noSleep, Faults: rule(Rule{Kind: Disconnect, AfterEvents: 2, Next: 1})})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewUnstartedServer(s)
	h.Config.Protocols = new(http.Protocols)
	h.Config.Protocols.SetUnencryptedHTTP2(true)
	h.Start()
	defer h.Close()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: p}}
	for i, broken := range []bool{true, false} {
		req, _ := http.NewRequest("POST", h.URL+chatPath, strings.NewReader(streamOpenAI))
		req.Header.Set("Authorization", "Bearer k")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		buf := make([]byte, 4096)
		for err == nil {
			var k int
			k, err = resp.Body.Read(buf)
			n += k
		}
		resp.Body.Close()
		if got := err.Error() != "EOF"; got != broken || n == 0 {
			t.Errorf("request %d: %d bytes, %v", i, n, err)
		}
	}
}
