package money

import (
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestParseAmount(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Nano
	}{
		{"0", 0}, {"12", 12 * Unit}, {"2.50", 2_500_000_000}, {"0.075", 75_000_000}, {"0.000000001", 1}, {"000.1", 100_000_000},
		{"9999999.999999999", 9_999_999_999_999_999}, {"9223372036.854775807", Max},
	} {
		if got, err := ParseAmount(c.in); err != nil || got != c.want {
			t.Errorf("%q is %d (%v), want %d", c.in, got, err, c.want)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"", "no amount"}, {".", "no amount"}, {"1.", "no amount"}, {".5", "no amount"}, {"-1", "no amount"}, {"+1", "no amount"},
		{"1e3", "no amount"}, {"1,5", "no amount"}, {"1 ", "no amount"}, {"0x1", "no amount"}, {"1_0", "no amount"}, {"1.2.3", "no amount"},
		{"١", "no amount"}, {"NaN", "no amount"}, {"0.0000000001", "more than 9 decimals"}, {"9223372036.854775808", "larger than 9223372036.854775807"},
		{strings.Repeat("9", 500), "larger than"},
	} {
		got, err := ParseAmount(c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q is %d (%v), want an error with %q", c.in, got, err, c.want)
		}
		if err != nil && len(err.Error()) > 150 {
			t.Errorf("the error for a long text is long: %v", err)
		}
	}
}

func TestString(t *testing.T) {
	for n, want := range map[Nano]string{
		0: "0", 1: "0.000000001", -1: "-0.000000001", Unit: "1", -Unit: "-1", 12_345_000_000: "12.345", -500_000_000: "-0.5",
		10 * Unit: "10", 100_000_000: "0.1", Max: "9223372036.854775807", math.MinInt64: "-9223372036.854775808",
	} {
		if got := n.String(); got != want {
			t.Errorf("%d is %q, want %q", int64(n), got, want)
		}
	}
}

// TestAddIsAssociative: amounts that are not negative have one sum, whatever the order, at the end of the range as well.
func TestAddIsAssociative(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		a, b, c := some(r), some(r), some(r)
		if x, y := a.Add(b).Add(c), a.Add(b.Add(c)); x != y || a.Add(b) != b.Add(a) {
			t.Fatalf("%d, %d, %d: %d and %d", a, b, c, x, y)
		}
		exact := new(big.Int).Add(big.NewInt(int64(a)), big.NewInt(int64(b)))
		if got := a.Add(b); exact.IsInt64() && int64(got) != exact.Int64() || !exact.IsInt64() && got != Max {
			t.Fatalf("%d + %d = %d, want %s", a, b, got, exact)
		}
	}
	if got := Nano(math.MinInt64).Add(-1); got != math.MinInt64 {
		t.Errorf("below the range: %d", got)
	}
	if got := Max.Add(math.MinInt64); got != -1 {
		t.Errorf("from one end to the other: %d", got)
	}
}

// some amount that is not negative: of every size, the ends included.
func some(r *rand.Rand) Nano {
	switch r.IntN(8) {
	case 0:
		return 0
	case 1:
		return Max
	}
	return Nano(r.Uint64() >> (1 + r.IntN(63)))
}

// FuzzParseAmount: what is read is written and read again as the same, and equals the decimal number.
func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"0", "2.50", "0.075", "9223372036.854775807", "9223372036.854775808", "1.", "-1", "1e9", "00000000000000000000001.000000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseAmount(s)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(s)
		if !ok || exact.Cmp(big.NewRat(int64(n), int64(Unit))) != 0 {
			t.Fatalf("%q was read as %d", s, n)
		}
		if again, err := ParseAmount(n.String()); err != nil || again != n {
			t.Fatalf("%q: %q is %d (%v)", s, n, again, err)
		}
	})
}
