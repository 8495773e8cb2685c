package semantic

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/cache"
)

func encode(list ...float32) string {
	var b []byte
	for _, f := range list {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}

func TestAppendRequest(t *testing.T) {
	got := string(appendRequest(nil, &cache.Semantic{Model: `e"1`}, "a\nb"))
	if want := `{"model":"e\"1","input":"a\nb","encoding_format":"base64"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got = string(appendRequest(nil, &cache.Semantic{Model: "e", Dimensions: 256}, "a"))
	if want := `{"model":"e","input":"a","encoding_format":"base64","dimensions":256}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseEmbedding(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   []float32
		err    string
	}{
		{200, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1,-0.5e1,0]}],"usage":{}}`, []float32{1, -5, 0}, ""},
		{200, `{"data":[{"embedding":"` + encode(1, -5, 0.25) + `"}]}`, []float32{1, -5, 0.25}, ""},
		{429, `{"data":[{"embedding":[1]}]}`, nil, "status 429"},
		{200, `{"data":[`, nil, "not valid JSON"},
		{200, `{"data":[]}`, nil, "no data[0].embedding"},
		{200, `{"data":[{"embedding":[]}]}`, nil, "no data[0].embedding"},
		{200, `{"data":[{"embedding":""}]}`, nil, "no data[0].embedding"},
		{200, `{"data":[{"embedding":[1,"2"]}]}`, nil, "no number"},
		{200, `{"data":[{"embedding":[` + strings.Repeat("1,", maxDimensions) + `1]}]}`, nil, "too many"},
		{200, `{"data":[{"embedding":"?"}]}`, nil, "no base64"},
		{200, `{"data":[{"embedding":"AAAAAAA="}]}`, nil, "no base64"},
		{200, `[]`, nil, "no data[0].embedding"},
	} {
		got, err := parseEmbedding(tt.status, []byte(tt.body))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%.60s: error %v, want one with %q", tt.body, err, tt.err)
			}
			continue
		}
		if err != nil || len(got) != len(tt.want) {
			t.Errorf("%s: %v, %v", tt.body, got, err)
			continue
		}
		for i := range got {
			if got[i] != tt.want[i] {
				t.Errorf("%s: %v", tt.body, got)
			}
		}
	}
}

func FuzzParseEmbedding(f *testing.F) {
	f.Add([]byte(`{"data":[{"embedding":[1,-0.5e1,1e39]}]}`))
	f.Add([]byte(`{"data":[{"embedding":"` + encode(1, 2) + `"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := parseEmbedding(200, body)
		if (err == nil) != (len(list) > 0) {
			t.Fatalf("%d numbers, %v", len(list), err)
		}
		if v, err := newVector(list); err == nil {
			if s, near := v.similarity(&v, 0.99); !near || s > 1.001 {
				t.Fatalf("it is not near itself: %v", s)
			}
		}
	})
}
