package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/weir-dev/weir/adapters/canon"
)

// What a record is in Redis: a byte for the version, the stamp (8 bytes, when it was stored), what is said of the answer as
// lengths and bytes, the body compressed, and 8 bytes of xxHash64 over all before.
const (
	recordVersion = 2
	stampLen      = 8
	sumLen        = 8
	// maxBody that is read back, in bytes; no policy keeps more.
	maxBody = 64 << 20
	maxList = 256 // headers or tags
)

// codec writes and reads records. It is safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() *codec {
	// Neither fails with options that are right.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(0), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		panic(err)
	}
	return &codec{enc, dec}
}

// encode writes the record.
func (c *codec) encode(r *record) []byte {
	e := r.entry
	b := make([]byte, 0, 256+len(e.Body)/3)
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Stored.UnixNano()))
	b = append(b, r.key[:]...)
	b = append(b, byte(r.scope), flag(r.negative)|flag(e.Stream)<<1)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	number := func(n int64) { b = binary.AppendVarint(b, n) }
	text(r.policy)
	text(r.owner)
	for _, d := range []time.Duration{r.ttl, r.stale, r.took} {
		number(int64(d))
	}
	number(r.epoch)
	number(int64(e.Status))
	text(e.Dialect)
	text(string(e.Operation))
	text(e.Model)
	text(e.Backend)
	text(e.UpstreamModel)
	text(e.Tenant)
	u := &e.Tokens
	for _, n := range []int64{u.Input, u.CacheRead, u.CacheWrite, u.Output, u.Reasoning} {
		number(n)
	}
	number(int64(len(e.Header)))
	for _, h := range e.Header {
		text(h[0])
		text(h[1])
	}
	number(int64(len(e.Tags)))
	for _, t := range e.Tags {
		text(t)
	}
	number(int64(len(e.Body)))
	b = c.enc.EncodeAll(e.Body, b)
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

var errRecord = errors.New("it is cut off or damaged")

// decode reads what encode wrote. It keeps nothing of b.
func (c *codec) decode(b []byte) (*record, error) {
	if len(b) < 1+stampLen+sumLen {
		return nil, errRecord
	}
	if b[0] != recordVersion {
		return nil, fmt.Errorf("it is of version %d, and this Weir reads version %d", b[0], recordVersion)
	}
	body, sum := b[:len(b)-sumLen], binary.BigEndian.Uint64(b[len(b)-sumLen:])
	if xxhash.Sum64(body) != sum {
		return nil, errRecord
	}
	d := decoder{b: body[1+stampLen:]}
	e := &Entry{Stored: time.Unix(0, int64(binary.BigEndian.Uint64(b[1:])))}
	r := &record{entry: e}
	copy(r.key[:], d.bytes(len(r.key)))
	r.scope = Scope(d.byte())
	flags := d.byte()
	r.negative, e.Stream = flags&1 != 0, flags&2 != 0
	r.policy, r.owner = d.text(), d.text()
	r.ttl, r.stale, r.took = time.Duration(d.number()), time.Duration(d.number()), time.Duration(d.number())
	r.epoch = d.number()
	e.Status = int(d.number())
	e.Dialect, e.Operation = d.text(), canon.Operation(d.text())
	e.Model, e.Backend, e.UpstreamModel, e.Tenant = d.text(), d.text(), d.text(), d.text()
	u := &e.Tokens
	for _, n := range []*int64{&u.Input, &u.CacheRead, &u.CacheWrite, &u.Output, &u.Reasoning} {
		*n = d.number()
	}
	for range d.count() {
		e.Header = append(e.Header, [2]string{d.text(), d.text()})
	}
	for range d.count() {
		e.Tags = append(e.Tags, d.text())
	}
	size := d.number()
	if d.bad || size < 0 || size > maxBody || r.scope > ScopeShared || r.ttl < 0 || r.stale < 0 || r.took < 0 {
		return nil, errRecord
	}
	var err error
	if e.Body, err = c.dec.DecodeAll(d.b, make([]byte, 0, min(size, 64*int64(len(d.b))+1024))); err != nil || int64(len(e.Body)) != size {
		return nil, errRecord
	}
	return r, nil
}

// decoder reads fields; bad says that one was not there.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) text() string {
	n, used := binary.Uvarint(d.b)
	if d.bad || used <= 0 || n > uint64(len(d.b)) {
		d.bad = true
		return ""
	}
	d.b = d.b[used:]
	return string(d.bytes(int(n)))
}

func (d *decoder) number() int64 {
	n, used := binary.Varint(d.b)
	if d.bad || used <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[used:]
	return n
}

// count of a list.
func (d *decoder) count() int {
	n := d.number()
	if n < 0 || n > maxList {
		d.bad = true
		return 0
	}
	return int(n)
}
