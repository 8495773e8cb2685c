package lane

import (
	"math"
	"sync/atomic"
	"unsafe"
)

// The layout of the file; see the package's documentation.
const (
	fileMagic  = 0x52494557
	fileLayout = 1
	headerSize = 64
	slotSize   = 64
	slotCount  = 4096
	fileSize   = headerSize + slotCount*slotSize
)

// Where the fields are, in the header and in a slot.
const (
	atMagic  = 0
	atLayout = 4
	atAlive  = 8

	atGeneration    = 0
	atGranted       = 4
	atUsed          = 8
	atRequests      = 16
	atRequestsReset = 24
	atTokens        = 32
	atTokensReset   = 40
	atEach          = 48
	atBytesPerToken = 56
)

// none is the NaN that says "no such headers". LuaJIT keeps its own values in NaNs that have the sign bit: this one has not.
const none = 0x7ff8_0000_0000_0000

// memory is the mapped file: whole pages, so that every field lies as its type wants it.
type memory []byte

func (m memory) word(at int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[at])) }

func (m memory) number(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&m[at])) }

func (m memory) put(at int, v float64) {
	bits := math.Float64bits(v)
	if v != v {
		bits = none
	}
	m.number(at).Store(bits)
}

func slotAt(slot int) int { return headerSize + slot*slotSize }

func (m memory) generation(slot int) *atomic.Uint32 { return m.word(slotAt(slot) + atGeneration) }
func (m memory) granted(slot int) *atomic.Uint32    { return m.word(slotAt(slot) + atGranted) }
func (m memory) used(slot int) *atomic.Uint32       { return m.word(slotAt(slot) + atUsed) }

// tell writes what answers say of limits. granted are the uses let in so far, which l counts as used.
func (m memory) tell(slot int, l Limits, granted uint32) {
	at, n := slotAt(slot), float64(granted)
	m.put(at+atRequests, l.Requests+n)
	m.put(at+atRequestsReset, math.Ceil(l.RequestsReset))
	m.put(at+atTokens, l.Tokens+n*l.Each)
	m.put(at+atTokensReset, math.Ceil(l.TokensReset))
	m.put(at+atEach, l.Each)
	m.put(at+atBytesPerToken, l.BytesPerToken)
}

// begin makes the file this process's: whatever one before it let in is over. touched says of each slot whether it may have been used.
func (m memory) begin() (touched [slotCount]bool) {
	m.number(atAlive).Store(0)
	for i := range slotCount {
		m.granted(i).Store(0)
		m.generation(i).Store(0)
		// The limits were written when the slot was taken into use, even where nobody counted.
		for at := slotAt(i); at < slotAt(i+1); at += 8 {
			touched[i] = touched[i] || m.number(at).Load() != 0
		}
	}
	m.word(atLayout).Store(fileLayout)
	m.word(atMagic).Store(fileMagic)
	return touched
}
