package semantic

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/extproc/cache"
)

// Embedder asks for an embedding on behalf of a caller: a request for embeddings in OpenAI's dialect, which goes the way of any
// other, with the caller's identity and limits.
type Embedder interface {
	// Embeddings gives the status and the body of the answer.
	Embeddings(ctx context.Context, body []byte) (status int, answer []byte, err error)
}

// maxDimensions of an embedding; the largest models have half of it.
const maxDimensions = 16_384

// appendRequest appends the body that asks for the embedding of a text. It asks for numbers in base64, as OpenAI's SDKs do, which
// are a quarter of the size; servers that do not know it send plain ones.
func appendRequest(dst []byte, s *cache.Semantic, text string) []byte {
	dst = append(dst, `{"model":`...)
	dst = jsonx.AppendString(dst, s.Model)
	dst = append(dst, `,"input":`...)
	dst = jsonx.AppendString(dst, text)
	dst = append(dst, `,"encoding_format":"base64"`...)
	if s.Dimensions > 0 {
		dst = append(dst, `,"dimensions":`...)
		dst = strconv.AppendInt(dst, int64(s.Dimensions), 10)
	}
	return append(dst, '}')
}

// parseEmbedding reads the answer to it: data[0].embedding, as numbers or as base64 of little-endian float32.
func parseEmbedding(status int, body []byte) ([]float32, error) {
	if status != 200 {
		return nil, fmt.Errorf("the backend answered the request for an embedding with status %d", status)
	}
	if err := jsonx.Check(body); err != nil {
		return nil, fmt.Errorf("the answer to the request for an embedding is not valid JSON: %w", err)
	}
	var embedding jsonx.Value
	for _, d := range jsonx.Root(body).Get("data").Elements() {
		embedding = d.Get("embedding")
		break
	}
	var list []float32
	switch embedding.Kind() {
	case jsonx.Array:
		list = make([]float32, 0, 1536) // which is usual
		for i, v := range embedding.Elements() {
			f, ok := v.Float()
			if !ok || i == maxDimensions {
				return nil, fmt.Errorf("the embedding has no number, or too many, at place %d", i)
			}
			list = append(list, float32(f))
		}
	case jsonx.String:
		raw, err := base64.StdEncoding.DecodeString(embedding.Share())
		if err != nil || len(raw)%4 != 0 || len(raw) > 4*maxDimensions {
			return nil, fmt.Errorf("the embedding is %d bytes that are no base64 of at most %d numbers of 32 bits", len(embedding), maxDimensions)
		}
		list = make([]float32, len(raw)/4)
		for i := range list {
			list[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("the answer to the request for an embedding has no data[0].embedding")
	}
	return list, nil
}
