package cache

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/weir-dev/weir/adapters/canon"
)

func sample() *record {
	return &record{
		key: key("q"), policy: "ns/p", scope: ScopeConsumer, owner: "acme\x00acme/bot", negative: true,
		ttl: time.Hour, took: 3 * time.Second, stale: time.Minute, epoch: 1_700_000_000_000_001,
		entry: &Entry{
			Head:     Head{Status: 200, Header: [][2]string{{"content-type", "text/event-stream"}}, Dialect: "openai", Operation: canon.OpChat, Stream: true},
			Purchase: Purchase{Model: "gpt", Backend: "ns/b", UpstreamModel: "gpt-2024", Tokens: canon.Usage{Input: 1, CacheRead: 2, CacheWrite: 3, Output: 4, Reasoning: 5}},
			Body:     []byte(stream(20)),
			Stored:   time.Unix(0, 1_700_000_000_123_456_789), Tags: []string{"a", "b"}, Tenant: "acme",
		},
	}
}

// stream is an answer as OpenAI streams it, with words that do not repeat more than those of a text do.
func stream(events int) string {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := rand.NewZipf(rnd, 1.1, 10, 20_000)
	var b strings.Builder
	for range events {
		word := base64.RawURLEncoding.EncodeToString(binary.LittleEndian.AppendUint32(nil, uint32(words.Uint64()*2654435761)))[:2+rnd.IntN(5)]
		fmt.Fprintf(&b, "data: {\"id\":\"chatcmpl-Bk2fTq0Z\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" %s\"},\"finish_reason\":null}]}\n\n", word)
	}
	return b.String() + "data: [DONE]\n\n"
}

func same(a, b *record) bool {
	return a.key == b.key && a.policy == b.policy && a.scope == b.scope && a.owner == b.owner && a.negative == b.negative &&
		a.ttl == b.ttl && a.stale == b.stale && a.took == b.took && a.epoch == b.epoch && reflect.DeepEqual(a.entry, b.entry)
}

func TestCodec(t *testing.T) {
	c := newCodec()
	r := sample()
	b := c.encode(r)
	got, err := c.decode(b)
	if err != nil || !same(r, got) {
		t.Fatalf("%v\n%+v\n%+v", err, r.entry, got.entry)
	}
	if len(b) > len(r.entry.Body)/4 {
		t.Errorf("%d bytes for a body of %d", len(b), len(r.entry.Body))
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x40
		if _, err := c.decode(bad); err == nil {
			t.Fatalf("a changed byte %d is not noticed", i)
		}
		if _, err := c.decode(b[:i]); err == nil {
			t.Fatalf("%d bytes of %d are read", i, len(b))
		}
	}
}

// sealed adds the sum to what is to be decoded.
func sealed(raw []byte) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(raw), xxhash.Sum64(raw))
}

// FuzzDecode: whatever is in Redis, decoding ends, and what it accepts it can write and read again.
func FuzzDecode(f *testing.F) {
	c := newCodec()
	b := c.encode(sample())
	f.Add(b[:len(b)-sumLen])
	plain := &record{entry: &Entry{Body: []byte{}, Stored: time.Unix(0, 0)}}
	b = c.encode(plain)
	f.Add(b[:len(b)-sumLen])
	f.Add([]byte{recordVersion})
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = sealed(raw) // else nothing gets past the sum
		r, err := c.decode(raw)
		if err != nil {
			return
		}
		again, err := c.decode(c.encode(r))
		if err != nil || !same(r, again) {
			t.Fatalf("%v: %+v, %+v", err, r, again)
		}
	})
}

// FuzzJournal: purges of other replicas.
func FuzzJournal(f *testing.F) {
	k := key("q")
	f.Add("12 0 " + string((&Selector{Tenant: "t", Model: "m", Tag: "x", Policy: "a/b", Key: &k}).wire()))
	f.Add("12 0 {}")
	f.Add("x")
	f.Fuzz(func(t *testing.T, line string) {
		j, err := parseJournaled(line)
		if err != nil {
			return
		}
		again, err := parseJournaled(fmt.Sprint(j.number, " ", j.before, " ", string(j.selector.wire())))
		if err != nil || !reflect.DeepEqual(again.selector, j.selector) {
			t.Fatalf("%v: %+v, %+v", err, j, again)
		}
	})
}

// BenchmarkCompress compares what could be used for bodies.
func BenchmarkCompress(b *testing.B) {
	for name, body := range map[string][]byte{"stream 500": []byte(stream(500)), "json 2k": []byte(stream(9))} {
		z1, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
		z2, _ := zstd.NewWriter(nil)
		dec, _ := zstd.NewReader(nil)
		for codec, f := range map[string]func([]byte) []byte{
			"zstd fastest": func(p []byte) []byte { return z1.EncodeAll(p, nil) },
			"zstd default": func(p []byte) []byte { return z2.EncodeAll(p, nil) },
			"s2":           func(p []byte) []byte { return s2.Encode(nil, p) },
			"s2 better":    func(p []byte) []byte { return s2.EncodeBetter(nil, p) },
		} {
			b.Run(name+"/"+codec+"/encode", func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				n := 0
				for b.Loop() {
					n = len(f(body))
				}
				b.ReportMetric(float64(len(body))/float64(n), "ratio")
			})
			packed := f(body)
			b.Run(name+"/"+codec+"/decode", func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					var err error
					if strings.HasPrefix(codec, "zstd") {
						_, err = dec.DecodeAll(packed, nil)
					} else {
						_, err = s2.Decode(nil, packed)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
