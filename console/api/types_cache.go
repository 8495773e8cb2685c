package api

// Cache is the answer of /api/cache: what this replica keeps of answers, and what it has done with them since its start.
type Cache struct {
	// Redis is off (answers are in the memory of each replica alone), up, or down.
	Redis string `json:"redis"`
	// Replicas that share answers, this one included; 0 where that is not known.
	Replicas int `json:"replicas"`
	// Buying is how many answers are being bought, BuyingBytes what they take in memory.
	Buying      int   `json:"buying"`
	BuyingBytes int64 `json:"buyingBytes"`
	// Queue is how many answers wait to be written to Redis.
	Queue    int                `json:"queue"`
	Policies []CachePolicyState `json:"policies"`
}

// CachePolicyState is what the cache has done for one CachePolicy. Counts are since the start of the process.
type CachePolicyState struct {
	ID string `json:"id"`
	// Entries and Bytes in memory, and how many bytes there may be; 0: none is kept there.
	Entries  int   `json:"entries"`
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"maxBytes"`
	// TTLSeconds of an answer.
	TTLSeconds float64 `json:"ttlSeconds"`
	// SharedStore says that answers are in Redis too, Semantic that they are found by meaning too.
	SharedStore bool `json:"sharedStore"`
	Semantic    bool `json:"semantic"`
	// Hits of fresh answers.
	Hits CacheHits `json:"hits"`
	// Stale answers that were given while they were bought again.
	Stale int64 `json:"stale"`
	// Negative are refusals of the provider that were given again.
	Negative int64 `json:"negative"`
	Misses   int64 `json:"misses"`
	// Shared are requests that were answered by what another was buying.
	Shared int64 `json:"shared"`
	// Bought are answers that were bought whole, Failed those that broke off, Refreshed those that were bought again in the background.
	Bought    int64 `json:"bought"`
	Failed    int64 `json:"failed"`
	Refreshed int64 `json:"refreshed"`
	// Evicted left the memory for others.
	Evicted int64 `json:"evicted"`
	// HitRatio is the part of all questions that a kept answer answered, from 0 to 1; absent before the first.
	HitRatio *float64 `json:"hitRatio,omitempty"`
	// SavedTokens are those of answers that were given without being bought.
	SavedTokens SavedTokens `json:"savedTokens"`
	// SavedCost is what those answers would have cost, an amount for each currency; empty where no price applied.
	SavedCost []Amount `json:"savedCost"`
	// Bloom is the filter before Redis; absent where there is none.
	Bloom *BloomState `json:"bloom,omitempty"`
}

// CacheHits are hits by where the answer was.
type CacheHits struct {
	Memory int64 `json:"memory"`
	Redis  int64 `json:"redis"`
}

// SavedTokens are tokens that were not bought again.
type SavedTokens struct {
	Input  int64 `json:"input"`
	Output int64 `json:"output"`
}

// Amount of money, exactly: a decimal of units of a currency.
type Amount struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

// BloomState is the bloom filter of a CachePolicy.
type BloomState struct {
	// Ready says that this replica has a copy of it, so that Redis is spared questions.
	Ready bool `json:"ready"`
	// Keys that it holds, estimated, and that it is made for; Bytes of the copy.
	Keys    int64 `json:"keys"`
	MaxKeys int64 `json:"maxKeys"`
	Bytes   int64 `json:"bytes"`
	// Spared are questions that did not reach Redis, Found those that had an answer there, Missed those that had none: false positives.
	Spared int64 `json:"spared"`
	Found  int64 `json:"found"`
	Missed int64 `json:"missed"`
	// FalsePositives is the measured rate, Missed of Missed and Spared; absent before the first.
	FalsePositives *float64 `json:"falsePositives,omitempty"`
	// ConfiguredFalsePositives is the rate that the policy asks for.
	ConfiguredFalsePositives float64 `json:"configuredFalsePositives"`
}

// CachePurge is the body of POST /api/cache/purge: all that is set must be true of an answer. One at least has to be set.
type CachePurge struct {
	// Tenant who bought the answer.
	Tenant string `json:"tenant,omitempty"`
	// Model by the name of who bought it.
	Model string `json:"model,omitempty"`
	Tag   string `json:"tag,omitempty"`
	// Policy is namespace/name.
	Policy string `json:"policy,omitempty"`
	// Key of one answer, 64 hexadecimal digits.
	Key string `json:"key,omitempty"`
}

// CachePurged is the answer of POST /api/cache/purge.
type CachePurged struct {
	// Purged are the answers that were removed, from Redis or else from the memory of the replica that was asked.
	Purged int `json:"purged"`
}
