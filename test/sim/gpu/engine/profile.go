package engine

import (
	"fmt"
	"time"
)

// Profile is a model on its hardware. A step takes Step + Prefill x prompt tokens computed in it + Decode x sequences
// that it gives one more token.
type Profile struct {
	Name  string // as the command line spells it
	Model string // as requests name it
	GPUs  int    // that share the work

	Step    time.Duration // of a step, whatever it does
	Prefill time.Duration // per prompt token that is not in the cache
	Decode  time.Duration // per sequence

	KVTokens    int // room for keys and values, in tokens
	BlockTokens int // tokens of a block of the cache; what is cached and compared are whole blocks
	MaxSeqs     int // sequences in a step, at most
	Budget      int // tokens computed in a step, at most
}

// Scaled is the profile on hardware that is faster by a factor.
func (p Profile) Scaled(factor float64) Profile {
	by := func(d time.Duration) time.Duration { return time.Duration(float64(d) / factor) }
	p.Step, p.Prefill, p.Decode = by(p.Step), by(p.Prefill), by(p.Decode)
	return p
}

// Capacity is the size of the cache in tokens: whole blocks. It is also the longest context.
func (p Profile) Capacity() int { return p.KVTokens / p.BlockTokens * p.BlockTokens }

// Profiles are the known ones. Step times are fits to measurements. KVTokens of the first two is what 90 % of 80 GB leave
// beside weights and 2 GB of activations, at 56 and 160 KiB a token.
func Profiles() []Profile {
	us := func(v float64) time.Duration { return time.Duration(v * float64(time.Microsecond)) }
	return []Profile{
		{Name: "qwen2.5-7b-h100", Model: "Qwen/Qwen2.5-7B-Instruct", GPUs: 1, Step: us(7050), Prefill: us(19.5), Decode: us(25.4),
			KVTokens: 950_000, BlockTokens: 16, MaxSeqs: 256, Budget: 8192},
		{Name: "qwen3-14b-h100", Model: "Qwen/Qwen3-14B", GPUs: 1, Step: us(13580), Prefill: us(39.4), Decode: us(27.3),
			KVTokens: 245_000, BlockTokens: 16, MaxSeqs: 256, Budget: 8192},
		{Name: "qwen3-32b-2xh100", Model: "Qwen/Qwen3-32B", GPUs: 2, Step: us(22000), Prefill: us(46), Decode: us(170),
			KVTokens: 307_328, BlockTokens: 16, MaxSeqs: 256, Budget: 8192},
	}
}

// ProfileByName finds one of Profiles.
func ProfileByName(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("there is no profile %q: the profiles are %q", name, names)
}

// check says what is wrong with a profile.
func (p Profile) check() error {
	switch {
	case p.Step <= 0 || p.Prefill < 0 || p.Decode < 0:
		return fmt.Errorf("profile %q: a step must take time, and no part of it less than none: step %v, prefill %v, decode %v", p.Name, p.Step, p.Prefill, p.Decode)
	case p.BlockTokens < 1 || p.KVTokens < p.BlockTokens:
		return fmt.Errorf("profile %q: the cache must hold a block at least: kv tokens %d, block tokens %d", p.Name, p.KVTokens, p.BlockTokens)
	case p.MaxSeqs < 1 || p.Budget < 1:
		return fmt.Errorf("profile %q: max seqs and budget must be 1 at least: %d, %d", p.Name, p.MaxSeqs, p.Budget)
	}
	return nil
}
