package e2e

import (
	"encoding/json"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// TestConsoleModules checks the parts of the console's scripts that only compute, in the browser that will run them.
func TestConsoleModules(t *testing.T) {
	t.Parallel()
	g := harness.Start(t, harness.Options{})
	p := newBrowserPage(t, g.AdminURL)
	p.open("setup")
	for _, c := range []struct{ name, js, want string }{
		{"counts", `f.count(12345)`, `"12,345"`},
		{"nothing", `[f.count(NaN), f.compact(undefined), f.money(''), f.clock('0001-01-01T00:00:00Z')]`, `["–","–","–","–"]`},
		{"short counts", `[0, 999, 1234, 2500000].map(f.compact)`, `["0","999","1.23K","2.5M"]`},
		{"rates", `[0, 0.01, 0.44, 12.34, 4123].map(f.rate)`, `["0","<0.1","0.4","12.3","4.12K"]`},
		{"parts", `[0, 0.004, 0.25, 1].map(f.percent)`, `["0%","0.4%","25%","100%"]`},
		{"durations", `[0, 0.0000042, 0.0042, 0.42, 0.99996, 4.2, 42, 185].map(f.duration)`, `["0 ms","4 µs","4.2 ms","420 ms","1.00 s","4.20 s","42 s","3 min 5 s"]`},
		{"spans", `[0, 59, 60, 3599, 7800, 360000].map(f.span)`, `["0 s","59 s","1 min","59 min 59 s","2 h 10 min","4 d 4 h"]`},
		{"ages", `[f.ago(new Date(1000), 1500), f.ago(new Date(1000), 66000)]`, `["just now","1 min 5 s ago"]`},
		{"money of all sizes", `['0', '12.4', '0.5', '0.000123', '0.00000004'].map((a) => f.money(a, 'USD').replace('US', ''))`, `["$0.00","$12.40","$0.50","$0.00012","$0.00000004"]`},
		{"money of nobody's currency", `f.money('3', 'credits')`, `"3.00 credits"`},
		{"bytes", `[0, 1023, 2048, 5000000].map(f.bytes)`, `["0 B","1,023 B","2 KiB","4.77 MiB"]`},
		{"names", `[f.shortID('default/a'), f.shortID('team/a'), f.shortID(undefined), f.plural(1, 'key'), f.plural(2, 'key')]`, `["a","team/a","","1 key","2 keys"]`},

		{"places", `[router.parse('#/requests/a%2Fb?q=x%20y'), router.parse(''), router.link('requests', 'a/b', {q: 'x y', no: ''})]`,
			`[{"page":"requests","id":"a/b","params":{"q":"x y"}},{"page":"topology","id":"","params":{}},"#/requests/a%2Fb?q=x+y"]`},
		{"a place that is broken", `router.parse('#/requests/%E0%A4%A').id`, `"%E0%A4%A"`},

		{"levels of endpoints", `[null, {status: 'ok'}, {status: 'down'}, {status: 'degraded'}, {status: 'idle'}, {status: 'Active', baseWeight: 1, publishedWeight: 950}, {status: 'Active', baseWeight: 1, publishedWeight: 400},
			{status: 'Active', baseWeight: 2, publishedWeight: 2000, breaker: 'Open'}, {status: 'Active', baseWeight: 1, publishedWeight: 1000, breaker: 'HalfOpen'}, {status: 'Isolated'}, {status: 'WarmingUp'}].map((e) => model.endpointLevel(e) + ': ' + model.endpointWord(e))`,
			`["idle: unknown","ok: ok","bad: down","warn: degraded","idle: idle","ok: active","warn: reduced","bad: breaker open","warn: breaker half open","bad: isolated","warn: warming up"]`},
		{"levels of edges", `[{}, {inFlight: 2}, {requestsPerSecond: 9}, {requestsPerSecond: 9, errorsPerSecond: 0.1}, {requestsPerSecond: 9, errorsPerSecond: 3}].map((e) => model.edgeLevel({requestsPerSecond: 0, errorsPerSecond: 0, inFlight: 0, ...e}))`,
			`["idle","run","ok","warn","bad"]`},
		{"a live change", `(() => {
			const m = model.newModel(), none = {requestsPerSecond: 0, errorsPerSecond: 0, tokensPerSecond: 0, inFlight: 0};
			const e = (id, more) => ({id, address: id, status: 'Active', weight: 1000, publishedWeight: 1000, baseWeight: 1, inFlight: 0, ...more});
			model.applyTopology(m, {at: 'a', version: 'v', gateways: [], clients: [{id: 'x/y'}], routes: [{id: 'r', backends: [{backend: 'b', weight: 1}]}], totals: none,
				backends: [{id: 'b', health: 'ok', share: 1, models: [], endpoints: [e('1'), e('2')]}], edges: [{kind: 'client', from: 'x/y', to: 'r', ...none, requestsPerSecond: 3}]});
			const before = [m.endpoints.get('1').value, m.endpoints.get('2').value], tick = m.tick.value;
			model.applyLive(m, {at: 'b', edges: [{kind: 'client', from: 'x/y', to: 'r', ...none}], clients: [{id: 'z/z'}, {id: 'x/y'}], backends: [{id: 'b', health: 'degraded'}], endpoints: [e('2', {status: 'Isolated'})], routes: [{id: 'r', liveWeights: [0.5]}], totals: none});
			const out = [m.endpoints.get('1').value === before[0], m.endpoints.get('2').value.status, m.backends.get('b').value.health, m.weights.get('r').value, model.edgeRates(m, 'client', 'x/y', 'r').value.requestsPerSecond, m.structure.value.clients.map((c) => c.id), m.tick.value - tick];
			model.applyTopology(m, {at: 'c', version: 'w', gateways: [], clients: [], routes: [], totals: none, backends: [], edges: []});
			return [...out, m.endpoints.size, m.backends.size];
		})()`, `[true,"Isolated","degraded",[0.5],0,["z/z","x/y"],1,0,0]`},

		{"lists of requests", `feed.merge([{id: '2', at: '2026-01-01T00:00:02Z', durationSeconds: 1}], [{id: '1', at: '2026-01-01T00:00:01Z', durationSeconds: 9}, {id: '2', at: '2026-01-01T00:00:02Z', durationSeconds: 1}], 5).map((r) => r.id)`, `["1","2"]`},
		{"filters", `[{status: '429'}, {status: '4xx'}, {status: 'refused'}, {status: '5xx'}, {status: 'ok'}, {q: 'GPT'}, {q: 'nope'}, {route: 'r', tenant: 't'}, {backend: 'c'}, {cache: 'hit'}, {cache: 'miss'}, {q: 'summ'}].map((want) => feed.matches({status: 429, outcome: 'refused', model: 'gpt-4o', route: 'r', tenant: 't', backend: 'b', cache: 'hit', purpose: 'summary'}, want))`,
			`[true,true,true,false,false,true,false,true,false,true,false,true]`},
		{"events that repeat", `(() => {
			const e = (seq, count, text = 'x') => ({seq, count, text, dependency: 'd', type: 't', severity: 'error'});
			return events.mergeEvents([e(9, 3), e(8, 1, 'y')], [e(5, 2), e(4, 1, 'z')]).map((x) => x.seq);
		})()`, `[9,8,4]`},
		{"the same event twice", `events.addEvent([{seq: 3, count: 1}], {seq: 3, count: 1}).length`, `1`},

		{"events of a stream in pieces", `(() => {
			const got = [], read = dialects.sseReader((name, data) => got.push(name + '=' + data));
			for (const piece of ['da', 'ta: {"a":', '1}\r', '\n\r\nevent: x\nda', 'ta: b\ndata:c\n', '\n: comment\n\ndata: last']) read(piece);
			return got;
		})()`, `["message={\"a\":1}","x=b\nc"]`},
		{"answers of dialects", `dialects.dialects.map((d) => [
			{choices: [{delta: {content: 'Hi'}}]}, {choices: [], usage: {prompt_tokens: 4, completion_tokens: 2}}, {choices: [{message: {content: 'Hi'}, finish_reason: 'stop'}], usage: {prompt_tokens: 4, completion_tokens: 2}},
			{type: 'response.output_text.delta', delta: 'Hi'}, {type: 'response.completed', response: {usage: {input_tokens: 4, output_tokens: 2}}}, {type: 'content_block_delta', delta: {text: 'Hi'}}, {type: 'message_delta', usage: {output_tokens: 2}, delta: {stop_reason: 'end_turn'}},
			].map((o) => d.read(o)).reduce(dialects.add, dialects.nothing())).map((a) => [a.text, a.input, a.output])`, `[["HiHi",4,2],["Hi",4,2],["Hi",null,2]]`},
		{"parts of a request", `falls.bars({durationSeconds: 2, tried: [{}], timeline: [{name: 'received', atSeconds: 0.1}, {name: 'sentAll', atSeconds: 0.2}, {name: 'firstByte', atSeconds: 0.5}, {name: 'lastByte', atSeconds: 2}]}).map((b) => [b.name, b.start, b.length])`,
			`[["Receive the request",0,0.1],["Wait for the answer",0.2,0.3],["Answer",0.5,1.5]]`},
		{"attempts of a request", `falls.bars({durationSeconds: 2, timeline: [], tried: [{n: 1, backend: 'default/a', startSeconds: 0, durationSeconds: 1, failed: true}, {n: 2, backend: 'b', startSeconds: 1, durationSeconds: 1}]}).map((b) => b.name + b.level)`,
			`["Attempt 1: abad","Attempt 2: bout"]`},

		{"sums of the ledger", `sums.sumBy([{tenant: 'a', requests: 1, tokens: {input: 5, output: 1}, costNanos: 1e9, currency: 'USD'}, {tenant: 'b', requests: 2, tokens: {cacheRead: 50}}, {tenant: 'a', requests: 1, costNanos: 5e8, currency: 'USD'}, {tenant: 'a', requests: 1, costNanos: 7e9, currency: 'EUR'}], 'tenant', sums.tokensOf).map((s) => [s.name, s.currency, s.requests, s.value, s.cost])`,
			`[["b","",2,50,0],["a","USD",2,6,1.5],["a","EUR",1,0,7]]`},
		{"days", `sums.days('2026-02-27', '2026-03-01')`, `["2026-02-27","2026-02-28","2026-03-01"]`},
		{"series and the rest", `sums.series([...'abcd'].map((tenant, i) => ({tenant, day: '2026-01-02', requests: 10 - i})), 'tenant', (r) => r.requests, ['2026-01-01', '2026-01-02'], 3)`,
			`[{"name":"a","values":[0,10]},{"name":"b","values":[0,9]},{"name":null,"values":[0,15]}]`},
		{"what is used", `[{limit: 10, remaining: 3}, {limit: 10, remaining: -5}, {limit: 0, remaining: 0}].map(sums.used)`, `[0.7,1,0]`},
	} {
		const modules = `Promise.all(['format', 'router', 'model', 'feed', 'events', 'playground/dialects', 'requests/waterfall', 'usage/sums'].map((m) => import('/js/' + m + '.js'))).then(([f, router, model, feed, events, dialects, falls, sums]) => JSON.stringify(`
		got := evalPage[string](p, modules+c.js+"))")
		if !json.Valid([]byte(c.want)) {
			t.Fatalf("%s: the test is broken", c.name)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
