package ship

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/usage/ledger"
)

// clockSkew is how far the clocks of Redis and of a replica may be apart without an entry being missed.
const clockSkew = time.Hour

// readPage is how many items are read at once, and pageTimeout how long that may take.
const (
	readPage    = 1000
	pageTimeout = 10 * time.Second
)

// Read answers a query from the stream, so for the whole fleet. The stream is read from the query's beginning to its
// end, so the cost grows with the number of entries since then.
func Read(ctx context.Context, client redis.UniversalClient, prefix string, q ledger.Query) (*ledger.Report, error) {
	sums := ledger.NewSummer(q)
	counts, err := Each(ctx, client, prefix, q, func(e *ledger.Entry) error { sums.Add(e); return nil })
	if err != nil {
		return nil, err
	}
	sums.Damaged, sums.Doubles = counts.Damaged, counts.Doubles
	return sums.Report(), nil
}

// Each calls fn for every entry of the stream that a query is about. The entry is valid until fn returns. The report
// has no rows.
func Each(ctx context.Context, client redis.UniversalClient, prefix string, q ledger.Query, fn func(*ledger.Entry) error) (*ledger.Report, error) {
	stream, _ := Keys(prefix)
	// An entry is added after its request began, possibly much later.
	from := "-"
	if !q.From.IsZero() {
		from = strconv.FormatInt(max(q.From.Add(-clockSkew).UnixMilli(), 0), 10)
	}
	report := &ledger.Report{}
	// Lines of a slot are added in order. A lower number than before means that lines were sent again after Redis
	// had lost the numbers but not the stream.
	next := map[string]uint64{}
	var e ledger.Entry
	for {
		items, err := page(ctx, client, stream, from)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			slot, seq, line, ok := parseItem(item)
			if !ok || ledger.ParseEntry(line, &e) != nil {
				report.Damaged++
				continue
			}
			if seq < next[slot] {
				report.Doubles++
				continue
			}
			next[slot] = seq + 1
			if !q.Matches(&e) {
				continue
			}
			if err := fn(&e); err != nil {
				return nil, err
			}
		}
		if len(items) < readPage {
			return report, nil
		}
		from = "(" + items[len(items)-1].ID
	}
}

func page(ctx context.Context, client redis.UniversalClient, stream, from string) ([]redis.XMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	items, err := client.XRangeN(ctx, stream, from, "+", readPage).Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", stream, err)
	}
	return items, nil
}

func parseItem(item redis.XMessage) (slot string, seq uint64, line []byte, ok bool) {
	slot, okSlot := item.Values[fieldSlot].(string)
	text, okSeq := item.Values[fieldSeq].(string)
	entry, okEntry := item.Values[fieldEntry].(string)
	seq, err := strconv.ParseUint(text, 10, 64)
	return slot, seq, []byte(entry), okSlot && okSeq && okEntry && err == nil
}
