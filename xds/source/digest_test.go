package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// generations are so many Routes, in another order than that of their names.
func generations(n int) *Objects {
	o := NewObjects()
	for i := range n {
		o.Routes = append(o.Routes, &v1alpha1.Route{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprintf("r-%05d", n-i), UID: types.UID(fmt.Sprint("uid-", i)), Generation: int64(i * i),
		}})
	}
	return o
}

// What is written fast is what hashParts writes: gateways of two versions must agree on digests.
func TestDigestIsThatOfItsParts(t *testing.T) {
	o := generations(20)
	sorted := generations(20)
	sorted.Sort()
	h := sha256.New()
	for _, r := range sorted.Routes {
		hashParts(h, "Route", r.Namespace, r.Name, string(r.UID), strconv.FormatInt(r.Generation, 10))
	}
	if got, want := o.Digest(), hex.EncodeToString(h.Sum(nil))[:16]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// BenchmarkDigest is what naming ten thousand generations costs, which a control plane does several times for each change.
func BenchmarkDigest(b *testing.B) {
	o := generations(10_000)
	o.Sort()
	b.ReportAllocs()
	for b.Loop() {
		o.Digest()
	}
}
