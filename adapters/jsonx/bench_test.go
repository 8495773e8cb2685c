package jsonx

import (
	"strings"
	"testing"
)

// prose has an escape every 60 bytes or so, as prompts do.
var prose = strings.Repeat("A line of a prompt that somebody has written, and its \"end\".\n", 100<<10/62)

func BenchmarkAppendString(b *testing.B) {
	for name, s := range map[string]string{"100KB": prose, "token": " hello"} {
		b.Run(name, func(b *testing.B) {
			dst := AppendString(nil, s)
			b.SetBytes(int64(len(s)))
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendString(dst[:0], s)
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	body := AppendString(nil, prose)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if Check(body) != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkStr(b *testing.B) {
	v := Value(AppendString(nil, prose))
	scratch := []byte(nil)
	b.Run("Str", func(b *testing.B) {
		b.SetBytes(int64(len(v)))
		b.ReportAllocs()
		for b.Loop() {
			v.Str()
		}
	})
	b.Run("Lend", func(b *testing.B) {
		v.Lend(&scratch)
		b.SetBytes(int64(len(v)))
		b.ReportAllocs()
		for b.Loop() {
			v.Lend(&scratch)
		}
	})
}
