package jsonx

import (
	"bytes"
	"unsafe"
)

// This file is the only one in the adapters that makes strings of bytes, or bytes of strings, without copying them.

// Share is Str without a copy where there is nothing to decode: the string then shares its bytes with v, which must not
// change, and is kept in memory, for as long as the string is used. It is for what is long: texts, images, arguments.
func (v Value) Share() string {
	if v.Kind() != String {
		return ""
	}
	in := v[1 : len(v)-1]
	if bytes.IndexByte(in, '\\') >= 0 {
		in = appendDecoded(make([]byte, 0, len(in)), in)
	}
	return view(in)
}

// Text is the JSON text of v as a string that shares its bytes, as Share does.
func (v Value) Text() string { return view(v) }

// Lend is Str for a string that is used at once and not kept: it shares its bytes with v, or, where there are escapes to decode, with
// scratch, which grows as needed. It is valid until either of them changes.
func (v Value) Lend(scratch *[]byte) string {
	if v.Kind() != String {
		return ""
	}
	in := v[1 : len(v)-1]
	if bytes.IndexByte(in, '\\') >= 0 {
		*scratch = appendDecoded((*scratch)[:0], in)
		in = *scratch
	}
	return view(in)
}

// view is a string that shares its bytes with b; it is valid until b changes.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf is s as bytes, which must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// Offset is where in text v begins; ok is false where v was not cut from it.
func (v Value) Offset(text []byte) (at int, ok bool) { return offset(text, v) }

// offset is where in text v, which is not empty and was cut from it, begins.
func offset(text []byte, v Value) (int, bool) {
	if len(text) == 0 || len(v) == 0 {
		return 0, false
	}
	// A difference of another slice's address wraps around or is too large.
	at := uintptr(unsafe.Pointer(unsafe.SliceData(v))) - uintptr(unsafe.Pointer(unsafe.SliceData(text)))
	if at > uintptr(len(text)) || at+uintptr(len(v)) > uintptr(len(text)) {
		return 0, false
	}
	return int(at), true
}
